"""Transfer: every adversarial example on every model, as if tried by hand; and what is kept to try it."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench import request as requests
from robustbench_bcos.bench.adversarials import from_bytes, to_bytes
from robustbench_bcos.bench.evidence.transfer import COLUMNS, make_transfers
from robustbench_bcos.bench.evidence.trust import Judgement
from robustbench_bcos.bench.judge import ThreatViolation
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import ResultRow, TransferRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.statistics import wilson
from tests.bench.evidence.one_check import carry_out_alone, outcome, results
from tests.bench.own_request import SHAPE, TwoSides, own_request

Matrix = dict[tuple[str, str, str, str], tuple[int, int]]

COUNT = 14
NAMES = ("first", "second", "blind")


class Hidden(nn.Module):
    """A network whose gradient is hidden, so that an attack finds nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.detach()) + 0 * images.sum()


def networks() -> dict[str, nn.Module]:
    """Two planes that are not far from parallel, and the first one again without its gradient."""
    random = np.random.default_rng(4)
    normal = random.normal(size=math.prod(SHAPE))
    first = TwoSides(normal, -float(normal.sum()) / 2)
    second = TwoSides(normal + 0.7 * random.normal(size=len(normal)), first.offset + 0.5)
    return {"first": first, "second": second, "blind": Hidden(first)}


IMAGES = 0.3 + 0.4 * torch.rand(COUNT, *SHAPE, generator=torch.Generator().manual_seed(3))
LABELS = networks()["first"](IMAGES).argmax(dim=1)


def request_of(**flags: Any) -> Request:
    asked: dict[str, Any] = {"norm": ("l2", "linf"), "eps": ("0.1", "0.02"), "steps": (6,), "loss": ("margin",)}
    asked |= {"evidence": "full", "batch_size": 5}
    return own_request(networks(), IMAGES, LABELS, 2, **{**asked, **flags})


def by_hand(
    request: Request, among: Collection[int] = range(COUNT)
) -> dict[tuple[str, str, str, str], tuple[int, int]]:
    """Images and how many are broken, by norm, epsilon, source and target: each example made and tried alone."""
    found: Matrix = {}
    for cell in request.cells:
        source = networks()[cell.model]
        made = {}
        for image in among:
            shown, label = IMAGES[image, None], LABELS[image, None]
            if source(shown).argmax() == label:
                attack = PGD(steps=6, loss="margin")
                made[image] = attack(source, shown, label, cell.threat).adversarials
        for name, target in networks().items():
            right = [image for image in made if target(IMAGES[image, None]).argmax() == LABELS[image]]
            broken = sum(bool(target(made[image]).argmax() != LABELS[image]) for image in right)
            found[cell.threat.norm, cell.threat.text, cell.model, name] = (len(right), broken)
    return found


def matrix(table: pd.DataFrame) -> Matrix:
    keys = zip(table["norm"], table["eps"], table["source"], table["target"], strict=True)
    found = dict(zip(keys, zip(table["images"], table["broken"], strict=True), strict=True))
    assert len(found) == len(table)
    return found


def transfers(request: Request) -> pd.DataFrame:
    with Store() as store:
        carry_out_alone("transfer", request, store)
        return make_transfers(store, request.identity)


# The matrix


def test_the_matrix_is_what_comes_of_trying_every_adversarial_example_by_hand() -> None:
    request = request_of()
    table = transfers(request)
    expected = by_hand(request)
    assert matrix(table) == expected
    assert len(expected) == 2 * 2 * 9
    # The example is worth something: the second model is broken by some of what the first made, but not by all.
    images, broken = expected["l2", "0.1", "first", "second"]
    assert 0 < broken < images < COUNT
    assert tuple(table.columns) == COLUMNS
    for row in table.to_dict("records"):
        interval = wilson(row["broken"], row["images"])
        assert (row["share"], row["ci_low"], row["ci_high"]) == (row["broken"] / row["images"], *interval)
        assert row["cell"].startswith(f"{row['target']} {row['norm']} {row['eps']} pgd ")
        assert (row["attack"], row["steps"]) == ("pgd", 6)


def test_the_diagonal_is_each_models_own_attack() -> None:
    request = request_of()
    with Store() as store:
        carry_out_alone("transfer", request, store)
        table = make_transfers(store, request.identity)
        for cell in request.cells:
            (own,) = table[(table["cell"] == cell.key) & (table["source"] == cell.model)].to_dict("records")
            sums = store.sums(cell)
            assert (own["images"], own["broken"]) == (sums.clean_correct, sums.clean_correct - sums.robust_correct)


def test_quick_evidence_tries_the_first_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "KEPT", 9)
    request = request_of(evidence="quick")
    # Balanced over classes, the first of a subset are not those of the lowest index.
    chosen = request.subset.indices[:9]
    assert request.transferred == frozenset(chosen)
    table = transfers(request)
    assert (table["images"] <= 9).all()
    with Store() as store:
        carry_out_alone("transfer", request, store)
        for cell in request.cells:
            assert set(store.adversarials(cell)) <= set(chosen)
            assert {row.image for row in store.select(TransferRow, cell=cell.key)} <= set(chosen)


@pytest.mark.parametrize(("evidence", "names"), [("off", NAMES), ("full", NAMES[:1])], ids=["unchecked", "one model"])
def test_where_nothing_is_tried_nothing_is_kept_and_there_is_no_matrix(evidence: str, names: tuple[str, ...]) -> None:
    chosen = {name: networks()[name] for name in names}
    request = own_request(chosen, IMAGES, LABELS, 2, evidence=evidence, steps=(2,))
    assert request.transferred == frozenset()
    with Store() as store:
        carry_out_alone("transfer", request, store)
        assert all(store.adversarials(cell) == {} for cell in request.cells)
        table = make_transfers(store, request.identity)
    assert table.empty
    assert tuple(table.columns) == COLUMNS


# The check


def test_an_adversarial_example_of_another_model_refutes_a_hidden_gradient() -> None:
    request = request_of(norm=("l2",), eps=("0.1",))
    first, _, blind = range(3)
    rows = results("transfer", request, blind)
    expected = by_hand(request)["l2", "0.1", "first", "blind"][1]
    assert sum(row.broken for row in rows) >= expected > 0
    assert all(row.broken == row.against and row.passes == 2 for row in rows)
    said, judged = outcome("transfer", request, blind)
    assert (said.status, said.against) == ("undermined", sum(row.broken for row in rows))
    assert judged.trust == "suspect"
    assert judged.worst_correct == COUNT - said.against
    said, judged = outcome("transfer", request, first)
    assert (said.status, judged.trust) == ("held", "sound")


def test_only_images_that_are_robust_speak_for_or_against() -> None:
    request = request_of(norm=("l2",), eps=("0.1",))
    with Store() as store:
        carry_out_alone("transfer", request, store)
        for cell in request.cells:
            rows = store.select(ResultRow, subject=cell.key)
            assert {row.image for row in rows} == set(store.robust(cell))
            broken = {row.image for row in store.select(TransferRow, cell=cell.key) if row.broken}
            assert {row.image for row in rows if row.broken} == broken & set(store.robust(cell))
            assert len({row.image for row in store.select(TransferRow, cell=cell.key)}) >= len(rows)
            robust = Judgement(store, request.identity).of(cell).worst_correct
            assert robust == len(rows) - sum(row.broken for row in rows)


@pytest.mark.parametrize(
    ("alone", "said"),
    [
        (True, "there is no second model in this run"),
        (False, "no other model of this run was attacked in the same way"),
    ],
)
def test_without_another_model_it_is_not_done_and_that_is_said(alone: bool, said: str) -> None:
    first: Any = networks()["first"]
    # The other model is wrong about every image, so that none is attacked.
    others = {} if alone else {"other": TwoSides(-first.normal.numpy(), -first.offset)}
    request = own_request({"one": first} | others, IMAGES, LABELS, 2, evidence="quick", steps=(2,), eps=("0.1",))
    answer, judged = outcome("transfer", request)
    assert (answer.status, answer.sentence) == ("not done", f"not done: {said}")
    assert judged.reasons == "transfer not done"
    assert judged.trust == "sound"


def test_an_adversarial_example_that_was_damaged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(norm=("l2",), eps=("0.1",))
    kept = Store.adversarials

    def farther(store: Store, cell: Any) -> dict[int, bytes]:
        return {image: to_bytes(1 - IMAGES[image]) for image in kept(store, cell)}

    monkeypatch.setattr(Store, "adversarials", farther)
    with Store() as store, pytest.raises(ThreatViolation, match=r"exceeds l2 0\.1"):
        carry_out_alone("transfer", request, store)


@pytest.mark.parametrize("target", ["0", "least_likely"])
def test_under_a_target_an_adversarial_example_must_reach_it_on_the_other_model_too(target: str) -> None:
    """Images of the target class are attacked nowhere, so that none of them is tried."""
    request = request_of(norm=("l2",), eps=("0.1",), criterion="targeted", target=target)
    found = matrix(transfers(request))
    wrong = 1 - LABELS if target == "least_likely" else torch.zeros(COUNT, dtype=torch.long)
    attacked = {image for image in range(COUNT) if wrong[image] != LABELS[image]}
    assert len(attacked) > 0
    # Of two classes, the wrong one is the target.
    assert found == by_hand(request, among=attacked)


# What is kept


@given(seed=st.integers(0, 10_000), count=st.integers(1, 4), shape=st.tuples(*[st.integers(1, 5)] * 3))
@settings(max_examples=30, deadline=None)
def test_kept_pixels_are_bit_by_bit_what_was_proposed(seed: int, count: int, shape: tuple[int, int, int]) -> None:
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))
    images[0, 0, 0, 0] = torch.finfo(torch.float32).tiny / 4
    contents = [to_bytes(image) for image in images]
    assert torch.equal(from_bytes(contents, shape), images)
    assert {len(content) for content in contents} == {4 * math.prod(shape)}
    again = from_bytes(contents, shape)
    again += 1
    assert torch.equal(from_bytes(contents, shape), images)


def test_pixels_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        from_bytes([to_bytes(IMAGES[0])], (3, 4, 4))
