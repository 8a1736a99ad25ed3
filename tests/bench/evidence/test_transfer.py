"""Transfer: every candidate on every model, as if each were tried by hand; and what is kept to try it."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from robustbench_bcos.attacks.pgd import PGD
from robustbench_bcos.bench.plan import Plan
from torch import Tensor, nn

from robustbench_bcos.attacks.losses import LOSSES
from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.bench import plan as planning
from robustbench_bcos.bench.adversarials import from_bytes, to_bytes
from robustbench_bcos.bench.evidence.transfer import COLUMNS, make_transfers
from robustbench_bcos.bench.evidence.trust import Judgement
from robustbench_bcos.bench.judge import ThreatViolation
from robustbench_bcos.bench.rows import ResultRow, TransferRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.statistics import wilson
from tests.bench.evidence.one_check import carry_out_alone, findings, outcome
from tests.bench.own_plan import SHAPE, TwoSides, own_plan

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


def plan_of(**flags: Any) -> Plan:
    asked: dict[str, Any] = {"norm": ("l2", "linf"), "eps": ("0.1", "0.02"), "steps": (6,), "loss": ("margin",)}
    asked |= {"evidence": "full", "batch_size": 5}
    return own_plan(networks(), IMAGES, LABELS, 2, **{**asked, **flags})


def by_hand(plan: Plan, count: int = COUNT) -> dict[tuple[str, str, str, str], tuple[int, int]]:
    """Images and falls by norm, radius, source and target: each candidate made and tried alone."""
    found: dict[tuple[str, str, str, str], tuple[int, int]] = {}
    for cell in plan.cells:
        source = networks()[cell.model]
        made = {}
        for image in range(count):
            shown, label = IMAGES[image, None], LABELS[image, None]
            if source(shown).argmax() == label:
                attack = PGD(steps=6, loss=LOSSES["margin"])
                made[image] = attack(source, shown, label, NORMS[cell.norm], cell.radius.value).candidates
        for name, target in networks().items():
            right = [image for image in made if target(IMAGES[image, None]).argmax() == LABELS[image]]
            fell = sum(bool(target(made[image]).argmax() != LABELS[image]) for image in right)
            found[cell.norm, cell.radius.text, cell.model, name] = (len(right), fell)
    return found


def matrix(table: pd.DataFrame) -> dict[tuple[str, str, str, str], tuple[int, int]]:
    keys = zip(table["norm"], table["eps"], table["source"], table["target"], strict=True)
    found = dict(zip(keys, zip(table["images"], table["broken"], strict=True), strict=True))
    assert len(found) == len(table)
    return found


def transfers(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    with Store() as store:
        carry_out_alone("transfer", plan, store, monkeypatch)
        return make_transfers(store, plan.identity)


# The matrix


def test_the_matrix_is_what_comes_of_trying_every_candidate_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of()
    table = transfers(plan, monkeypatch)
    expected = by_hand(plan)
    assert matrix(table) == expected
    assert len(expected) == 2 * 2 * 9
    # The example is worth something: the second model falls to some of what the first made, but not to all.
    images, fell = expected["l2", "0.1", "first", "second"]
    assert 0 < fell < images < COUNT
    assert tuple(table.columns) == COLUMNS
    for row in table.to_dict("records"):
        interval = wilson(row["broken"], row["images"])
        assert (row["share"], row["ci_low"], row["ci_high"]) == (row["broken"] / row["images"], *interval)
        assert row["cell"].startswith(f"{row['target']} pgd {row['norm']} {row['eps']} ")
        assert (row["attack"], row["steps"]) == ("pgd", 6)


def test_the_diagonal_is_each_models_own_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of()
    with Store() as store:
        carry_out_alone("transfer", plan, store, monkeypatch)
        table = make_transfers(store, plan.identity)
        for cell in plan.cells:
            (own,) = table[(table["cell"] == cell.key) & (table["source"] == cell.model)].to_dict("records")
            sums = store.sums(cell)
            assert (own["images"], own["broken"]) == (sums.clean_correct, sums.clean_correct - sums.robust_correct)


def test_quick_evidence_tries_the_first_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "KEPT", 9)
    plan = plan_of(evidence="quick")
    # Balanced over classes, the first of a slice are not those of the lowest index.
    chosen = plan.images.indices[:9]
    assert plan.transferred == frozenset(chosen)
    table = transfers(plan, monkeypatch)
    assert (table["images"] <= 9).all()
    with Store() as store:
        carry_out_alone("transfer", plan, store, monkeypatch)
        for cell in plan.cells:
            assert set(store.adversarials(cell)) <= set(chosen)
            assert {row.image for row in store.select(TransferRow, cell=cell.key)} <= set(chosen)


@pytest.mark.parametrize(
    "plan",
    [plan_of(evidence="off"), own_plan({"alone": networks()["first"]}, IMAGES, LABELS, 2, evidence="full", steps=(2,))],
    ids=["unchecked", "one model"],
)
def test_where_nothing_is_tried_no_candidates_are_kept_and_there_is_no_matrix(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan.transferred == frozenset()
    with Store() as store:
        carry_out_alone("transfer", plan, store, monkeypatch)
        assert all(store.adversarials(cell) == {} for cell in plan.cells)
        table = make_transfers(store, plan.identity)
    assert table.empty
    assert tuple(table.columns) == COLUMNS


# The check


def test_a_candidate_of_another_model_refutes_a_hidden_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(norm=("l2",), eps=("0.1",))
    first, _, blind = range(3)
    rows = findings("transfer", plan, monkeypatch, blind)
    expected = by_hand(plan)["l2", "0.1", "first", "blind"][1]
    assert sum(row.broken for row in rows) >= expected > 0
    assert all(row.broken == row.against and row.passes == 2 for row in rows)
    said, judged = outcome("transfer", plan, monkeypatch, blind)
    assert (said.status, said.against) == ("undermined", sum(row.broken for row in rows))
    assert judged.trust == "suspect"
    assert judged.worst_correct == COUNT - said.against
    said, judged = outcome("transfer", plan, monkeypatch, first)
    assert (said.status, judged.trust) == ("held", "sound")


def test_only_images_that_withstood_speak_for_or_against(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(norm=("l2",), eps=("0.1",))
    with Store() as store:
        carry_out_alone("transfer", plan, store, monkeypatch)
        for cell in plan.cells:
            rows = store.select(ResultRow, subject=cell.key)
            assert {row.image for row in rows} == set(store.robust(cell))
            fell = {row.image for row in store.select(TransferRow, cell=cell.key) if row.broken}
            assert {row.image for row in rows if row.broken} == fell & set(store.robust(cell))
            assert len({row.image for row in store.select(TransferRow, cell=cell.key)}) >= len(rows)
            standing = Judgement(store, plan.identity).of(cell).worst_correct
            assert standing == len(rows) - sum(row.broken for row in rows)


@pytest.mark.parametrize(
    ("alone", "said"),
    [
        (True, "there is no second model in this run"),
        (False, "no other model of this run was attacked in the same way"),
    ],
)
def test_without_another_model_it_is_not_done_and_that_is_said(
    alone: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {"one": networks()["first"]} if alone else {"one": networks()["first"], "other": networks()["first"]}
    plan = own_plan(pair, IMAGES, LABELS, 2, evidence="quick", steps=(2,), eps=("0.1",))
    if not alone:
        # The other model is attacked otherwise.
        plan = Plan(plan.config, plan.images, plan.sources, plan.weights, plan.cells[:1], plan.device)
    answer, judged = outcome("transfer", plan, monkeypatch)
    assert (answer.status, answer.sentence) == ("not done", f"not done: {said}")
    assert judged.reasons == "transfer not done"
    assert judged.trust == "sound"


def test_a_damaged_candidate_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(norm=("l2",), eps=("0.1",))
    kept = Store.adversarials

    def farther(store: Store, cell: Any) -> dict[int, bytes]:
        return {image: to_bytes(1 - IMAGES[image]) for image in kept(store, cell)}

    monkeypatch.setattr(Store, "adversarials", farther)
    with Store() as store, pytest.raises(ThreatViolation, match="exceeds l2 radius"):
        carry_out_alone("transfer", plan, store, monkeypatch)


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
