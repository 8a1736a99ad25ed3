"""How checks are carried out: once, the same whatever the batches and interruptions, at no more than a known cost."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from robustbench_bcos.bench.plan import Plan

from robustbench_bcos.bench.evidence import examination
from robustbench_bcos.bench.evidence.checks import CHECKS, checks_of
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.rows import EvidenceRow, ResultRow, Row, TransferRow
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.rng import PerImageRng
from tests.bench.tiny_zoo import NAMES, carry_out, tiny_plan

TABLES = ("verdicts", "adversarials", "evidence", "results", "transfers")
MODEL_CHECKS = len(checks_of("quick", "model"))
CELL_CHECKS = len(checks_of("quick", "cell"))


def plan_of(zoo: Path, **flags: Any) -> Plan:
    """Two models, at a radius where some images fall and others do not."""
    return tiny_plan(zoo, **{"eps": ("0.2",), "steps": (5,), "seed": 3, "evidence": "quick"} | flags)


def rows(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    return {table: sorted(store._database.execute(f"SELECT * FROM {table}").fetchall()) for table in TABLES}


def rows_of(plan: Plan) -> dict[str, list[tuple[Any, ...]]]:
    with Store() as store:
        carry_out(plan, store)
        return rows(store)


@pytest.fixture(scope="module")
def expected(tiny_zoo: Path) -> dict[str, list[tuple[Any, ...]]]:
    return rows_of(plan_of(tiny_zoo))


# What is carried out


def test_every_check_is_carried_out_once_for_every_model_and_cell(tiny_zoo: Path, store: Store) -> None:
    plan = plan_of(tiny_zoo, eps=("0.2", "0.3"))
    carry_out(plan, store)
    for name in NAMES:
        assert list(store.evidence(name)) == sorted(check.name for check in checks_of("quick", "model"))
    for cell in plan.cells:
        assert set(store.evidence(cell.key)) == {check.name for check in checks_of("quick", "cell")}


def test_without_evidence_nothing_is_carried_out_or_kept(tiny_zoo: Path) -> None:
    found = rows_of(plan_of(tiny_zoo, evidence="off"))
    assert [found[table] for table in TABLES[1:]] == [[], [], [], []]


def test_evidence_changes_no_verdict(tiny_zoo: Path, expected: dict[str, Any]) -> None:
    assert rows_of(plan_of(tiny_zoo, evidence="off"))["verdicts"] == expected["verdicts"]


def test_only_images_that_withstood_are_attacked_again(tiny_zoo: Path, store: Store) -> None:
    plan = plan_of(tiny_zoo)
    carry_out(plan, store)
    for cell in plan.cells:
        withstood = set(store.robust(cell))
        assert {row.image for row in store.select(ResultRow, subject=cell.key)} <= withstood
        assert 0 < len(withstood) < store.sums(cell).clean_correct


def test_no_image_is_examined_twice_by_a_check(expected: dict[str, Any]) -> None:
    keys = [(subject, check, image) for subject, check, image, *_ in expected["findings"]]
    assert len(keys) == len(set(keys))
    assert {part for _, _, _, part, *_ in expected["findings"]} <= {"nearest", "sample", "called"}


def test_full_evidence_examines_every_image_that_withstood(tiny_zoo: Path, store: Store) -> None:
    plan = plan_of(tiny_zoo, evidence="full", limit=12, model=("tiny-natural",), eps=("0.1",))
    carry_out(plan, store)
    (cell,) = plan.cells
    withstood = set(store.robust(cell))
    assert withstood
    for name in ("noise", "more_steps", "other_losses", "unbounded_attack", "black_box"):
        assert {row.image for row in store.select(ResultRow, subject=cell.key) if row.check == name} == withstood


# The same whatever happens


@pytest.mark.parametrize("size", [7, 64, 360])
def test_batches_of_another_size_give_the_same_rows(size: int, tiny_zoo: Path, expected: dict[str, Any]) -> None:
    found = rows_of(plan_of(tiny_zoo, batch_size=size))
    for table in ("evidence", "results", "transfers"):
        assert found[table] == expected[table]
    # Other kernels give other last digits of sizes and margins, and other last bits of candidates.
    digits = [tuple(float(value or 0) for value in row[2:-1]) for row in found["verdicts"]]
    assert digits == [
        pytest.approx(tuple(float(value or 0) for value in row[2:-1]), rel=1e-3) for row in expected["verdicts"]
    ]
    assert [row[-1] for row in found["verdicts"]] == [row[-1] for row in expected["verdicts"]]


class Killed(BaseException):
    """As an interruption: nothing catches it."""


@pytest.mark.parametrize("survived", range(0, 2 * (MODEL_CHECKS + CELL_CHECKS), 3))
def test_who_is_killed_between_two_checks_continues_and_ends_with_the_same_rows(
    survived: int, tiny_zoo: Path, expected: dict[str, Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, real, left = plan_of(tiny_zoo), Store.add, [survived]

    def dying(self: Store, *rows: Row) -> None:
        if isinstance(rows[0], EvidenceRow):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
        real(self, *rows)

    monkeypatch.setattr(Store, "add", dying)
    with pytest.raises(Killed):
        carry_out(plan, store)
    recorded = rows(store)["evidence"]
    assert len(recorded) == survived
    again: list[str] = []

    def noting(self: Store, *rows: Row) -> None:
        again.extend((row.subject, row.check) for row in rows if isinstance(row, EvidenceRow))
        real(self, *rows)

    monkeypatch.setattr(Store, "add", noting)
    carry_out(plan, store)
    assert rows(store) == expected
    assert not {(subject, check) for subject, check, _ in recorded} & set(again)


def test_who_continues_a_finished_run_asks_no_model(
    tiny_zoo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tiny_zoo)
    carry_out(plan, store)
    before = rows(store)
    monkeypatch.setattr(type(plan.sources[0]), "load", lambda self: pytest.fail("nothing was left to do"))
    work = [progress.images for progress in execute(plan, store)]
    assert rows(store) == before
    assert sum(work) == plan.work


def test_progress_tells_of_as_much_work_as_was_announced(tiny_zoo: Path, store: Store) -> None:
    plan = plan_of(tiny_zoo)
    assert sum(progress.images for progress in execute(plan, store)) == plan.work


# What it may cost


@pytest.mark.parametrize(
    "flags", [{"steps": (20,)}, {"steps": (30,), "restarts": (2,)}, {"norm": ("linf",), "eps": ("4/255",)}]
)
def test_quick_evidence_costs_no_more_than_the_attack_or_than_twenty_steps(
    flags: dict[str, Any], tiny_zoo: Path, store: Store
) -> None:
    """But for the images that are called, and the one image that a check always has."""
    plan = plan_of(tiny_zoo, **{"model": NAMES[:1], "limit": 60, **flags})
    carry_out(plan, store)
    (cell,) = plan.cells
    sums = store.sums(cell)
    called = [row for row in store.select(ResultRow, subject=cell.key) if row.part == "called"]
    spent = sum(row.passes for row in store.select(ResultRow, subject=cell.key)) - sum(row.passes for row in called)
    longest = max(row.passes for row in store.select(ResultRow, subject=cell.key))
    assert 0 < spent <= max(sums.forward_passes + sums.backward_passes, 41 * sums.robust_correct) + 5 * longest


def test_an_attack_that_costs_nothing_is_examined_all_the_same(tiny_zoo: Path, store: Store) -> None:
    """One draw of noise proves nothing, and a share of one pass would buy no search at all."""
    plan = plan_of(tiny_zoo, model=("tiny-natural",), attack=("noise",), limit=60)
    carry_out(plan, store)
    (cell,) = plan.cells
    searched = [row for row in store.select(ResultRow, subject=cell.key) if row.check == "other_losses"]
    assert len(searched) >= 10
    assert make_records(store, plan.identity)["trust"].tolist() == ["suspect"]


# Randomness


def test_no_check_draws_what_the_attack_or_another_check_has_drawn(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, set[tuple[int, ...]]] = {}
    working: list[str] = ["attack"]
    real_call, real_find = PerImageRng.__call__, examination._Examiner.findings

    def call(self: PerImageRng, restart: int) -> list[torch.Generator]:
        keys = {(self.seed, index, *self.path, restart) for index in self.indices}
        drawn.setdefault(working[-1], set()).update(keys)
        return real_call(self, restart)

    def find(self: Any, check: Any) -> Iterator[Any]:
        working.append(check.name)
        yield from real_find(self, check)
        working.pop()

    monkeypatch.setattr(PerImageRng, "__call__", call)
    monkeypatch.setattr(examination._Examiner, "findings", find)
    rows_of(plan_of(tiny_zoo, model=("tiny-natural",), start="random", restarts=(2,)))
    assert {"attack", "noise", "black_box", "more_steps", "other_losses"} <= drawn.keys()
    everything = [key for keys in drawn.values() for key in keys]
    assert len(everything) == len(set(everything))


def test_another_seed_gives_other_candidates_of_a_check(tiny_zoo: Path) -> None:
    flags: dict[str, Any] = {"model": ("tiny-natural",), "attack": ("noise",), "eps": ("1",)}
    found = [rows_of(plan_of(tiny_zoo, **flags, seed=seed))["findings"] for seed in (0, 1)]
    assert found[0] != found[1]


# Candidates of other models


def test_transfer_is_not_done_with_one_model_and_says_so(tiny_zoo: Path, store: Store) -> None:
    plan = plan_of(tiny_zoo, model=("tiny-natural",))
    carry_out(plan, store)
    (cell,) = plan.cells
    assert store.evidence(cell.key)["transfer"].skipped_because == "there is no second model in this run"
    assert rows(store)["candidates"] == []
    assert "transfer not done" in make_records(store, plan.identity)["reasons"].item()


def test_transfer_is_not_done_in_the_space_of_an_encoding(tiny_zoo: Path, store: Store) -> None:
    plan = plan_of(tiny_zoo, model=("tiny-bcos", "digits-bcos-b2"), space="encoded", limit=10)
    carry_out(plan, store)
    assert {store.evidence(cell.key)["transfer"].skipped_because[:10] for cell in plan.cells} == {"candidates"}


def test_candidates_of_one_model_are_tried_on_the_other(tiny_zoo: Path, store: Store) -> None:
    plan = plan_of(tiny_zoo, eps=("1",), count="last")
    carry_out(plan, store)
    for cell, other in zip(plan.cells, plan.cells[::-1], strict=True):
        kept, clean = store.adversarials(other), store.clean(cell.model)
        classifier: Any = plan.source(cell.model).load().classifier
        transfers = {row.image: row.broken for row in store.select(TransferRow, cell=cell.key)}
        assert {row.source for row in store.select(TransferRow, cell=cell.key)} == {other.model}
        right = [image for image in kept if clean[image].prediction == clean[image].label]
        shown = torch.stack([torch.frombuffer(bytearray(kept[image]), dtype=torch.float32) for image in right])
        predictions = classifier(shown.view(-1, 3, 8, 8)).argmax(dim=1).tolist()
        said = {image: guess != clean[image].label for image, guess in zip(right, predictions, strict=True)}
        assert transfers == said
        assert any(said.values())
        found = {row.image: row.broken for row in store.select(ResultRow, subject=cell.key) if row.check == "transfer"}
        assert found == {image: fell for image, fell in said.items() if image in store.robust(cell)}


# A look at the model


def test_a_model_that_has_changed_since_it_was_attacked_is_stochastic(
    tiny_zoo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers always the same when it is asked for evidence, but not what it answered before."""
    plan = plan_of(tiny_zoo, model=("tiny-natural",))
    source_type = type(plan.sources[0])
    real: Callable[[Any], Any] = source_type.load
    loads = []

    def load(self: Any) -> Any:
        loads.append(self)
        model = real(self)
        return model if len(loads) == 1 else replace(model, classifier=Mirrored(model.classifier))

    monkeypatch.setattr(source_type, "load", load)
    carry_out(plan, store)
    against = [row.against for row in store.select(ResultRow, subject="tiny-natural") if row.check == "stochastic"]
    assert any(against)


class Mirrored(torch.nn.Module):
    """Another network, so to say."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images.flip(3))


def test_the_first_sixteen_images_are_asked_about(tiny_zoo: Path, store: Store) -> None:
    plan = plan_of(tiny_zoo, model=("tiny-natural",))
    carry_out(plan, store)
    asked = [row.image for row in store.select(ResultRow, subject="tiny-natural") if row.check == "stochastic"]
    assert asked == sorted(plan.images.indices[:16])
    assert set(CHECKS) >= {row.check for row in store.select(ResultRow, subject="tiny-natural")}
