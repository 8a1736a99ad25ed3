"""How checks are carried out: once, the same whatever the batches and interruptions, at no more than a known cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence.check import (
    AbstractCellCheck,
    AbstractModelCheck,
    AbstractSearchCheck,
    checks_of,
)
from robustbench_bcos.bench.evidence.checks import other_losses
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.selection import FEWEST
from robustbench_bcos.bench.models import ModelCache
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import EvidenceRow, Row
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.schedule import Schedule
from robustbench_bcos.bench.stages import evidence as stage
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.rng import PerImageRng
from tests.bench.tiny_zoo import NAMES, carry_out, tiny_request

TABLES = ("verdicts", "adversarials", "evidence", "results", "transfers")
MODEL_CHECKS = sorted(check.name for check in checks_of("quick", AbstractModelCheck))
CELL_CHECKS = sorted(check.name for check in checks_of("quick", AbstractCellCheck))


def request_of(zoo: Path, **flags: Any) -> Request:
    """Two models, at a radius where some images are broken and others are not."""
    return tiny_request(
        zoo, **{"eps": ("0.2",), "limit": 20, "steps": (5,), "seed": 3, "evidence": "quick", "jobs": 1} | flags
    )


def rows(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    return {table: sorted(store._database.execute(f"SELECT * FROM {table}").fetchall()) for table in TABLES}


def rows_of(request: Request) -> dict[str, list[tuple[Any, ...]]]:
    with Store() as store:
        carry_out(request, store)
        return rows(store)


@pytest.fixture(scope="module")
def expected(tiny_zoo: Path) -> dict[str, list[tuple[Any, ...]]]:
    return rows_of(request_of(tiny_zoo))


# What is carried out


def test_every_check_is_carried_out_once_for_every_model_and_cell(tiny_zoo: Path, store: Store) -> None:
    request = request_of(tiny_zoo, eps=("0.2", "0.3"))
    carry_out(request, store)
    for name in NAMES:
        assert list(store.evidence(name)) == MODEL_CHECKS
    for cell in request.cells:
        assert list(store.evidence(cell.key)) == CELL_CHECKS


def test_without_evidence_nothing_is_carried_out_or_kept(tiny_zoo: Path) -> None:
    found = rows_of(request_of(tiny_zoo, evidence="off"))
    assert [found[table] for table in TABLES[1:]] == [[], [], [], []]


def test_evidence_changes_no_verdict(tiny_zoo: Path, expected: dict[str, Any]) -> None:
    assert rows_of(request_of(tiny_zoo, evidence="off"))["verdicts"] == expected["verdicts"]


def test_only_images_that_are_robust_are_attacked_again(tiny_zoo: Path, store: Store) -> None:
    request = request_of(tiny_zoo)
    carry_out(request, store)
    for cell in request.cells:
        robust = set(store.robust(cell))
        assert {row.image for row in store.results(cell.key)} <= robust
        assert 0 < len(robust) < store.sums(cell).clean_correct


def test_no_image_is_examined_twice_by_a_check(expected: dict[str, Any]) -> None:
    keys = [(subject, check, image) for subject, check, image, *_ in expected["results"]]
    assert len(keys) == len(set(keys))
    assert {part for _, _, _, part, *_ in expected["results"]} <= {"screened", "nearest", "sample", "called"}


def test_full_evidence_examines_every_image_that_are_robust(tiny_zoo: Path, store: Store) -> None:
    request = request_of(tiny_zoo, evidence="full", limit=12, model=("tiny-natural",), eps=("0.1",))
    carry_out(request, store)
    (cell,) = request.cells
    robust = set(store.robust(cell))
    assert robust
    for check in checks_of("full", AbstractSearchCheck):
        assert {row.image for row in store.results(cell.key) if row.check == check.name} == robust


# The same whatever happens


def test_cells_of_one_threat_share_searches_and_find_what_each_finds_alone(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [row for steps in (3, 5) for row in rows_of(request_of(tiny_zoo, steps=(steps,)))["results"]]
    searched: list[tuple[object, ...]] = []
    attacked = CellContext._attacked

    def recorded(self: CellContext, check: Any, attacks: Any, indices: tuple[int, ...], *draw: int) -> Any:
        asked = (self.cell.model, check.name, *attacks, *draw)
        searched.extend((asked, image) for image in indices)
        return attacked(self, check, attacks, indices, *draw)

    monkeypatch.setattr(CellContext, "_attacked", recorded)
    together = rows_of(request_of(tiny_zoo, steps=(3, 5)))["results"]
    of_model = {row for row in alone if row[0] in NAMES}
    assert sorted({*alone}) == together
    assert len(alone) == len(together) + len(of_model)
    assert len(searched) == len(set(searched))
    assert {asked[1] for asked, _ in searched} >= {"other_losses", "more_steps"}


@pytest.mark.parametrize("size", [7, 64])
def test_batches_of_another_size_give_the_same_rows(size: int, tiny_zoo: Path, expected: dict[str, Any]) -> None:
    found = rows_of(request_of(tiny_zoo, batch_size=size))
    for table in ("evidence", "results", "transfers"):
        assert found[table] == expected[table]
    # Other kernels give other last digits; of nearness three are kept, and one of the last may be a hundredth.
    assert list(map(_digits, found["verdicts"])) == [
        pytest.approx(_digits(row), rel=1e-2, abs=1e-6) for row in expected["verdicts"]
    ]


def _digits(row: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value or 0) for value in row[1:])


class Killed(BaseException):
    """As an interruption: nothing catches it."""


@pytest.mark.parametrize("survived", [0, 8, 21])
def test_a_run_that_is_killed_between_two_checks_continues_and_ends_with_the_same_rows(
    survived: int, tiny_zoo: Path, expected: dict[str, Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, real, left = request_of(tiny_zoo), Store.add, [survived]

    def dying(self: Store, *rows: Row) -> None:
        if any(isinstance(row, EvidenceRow) for row in rows):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
        real(self, *rows)

    monkeypatch.setattr(Store, "add", dying)
    with pytest.raises(Killed):
        carry_out(request, store)
    recorded = rows(store)["evidence"]
    assert len(recorded) == survived
    again: list[str] = []

    def noting(self: Store, *rows: Row) -> None:
        again.extend((row.subject, row.check) for row in rows if isinstance(row, EvidenceRow))
        real(self, *rows)

    monkeypatch.setattr(Store, "add", noting)
    carry_out(request, store)
    assert rows(store) == expected
    assert not {(subject, check) for subject, check, *_ in recorded} & set(again)


def test_a_finished_run_that_is_continued_loads_no_model(
    tiny_zoo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(tiny_zoo)
    carry_out(request, store)
    before = rows(store)
    monkeypatch.setattr(ModelCache, "get", lambda self, source: pytest.fail("nothing was left to do"))
    work = [progress.images for progress in execute(request, store)]
    assert rows(store) == before
    assert sum(work) == Schedule(request=request).work


def test_progress_tells_of_as_much_work_as_was_announced(tiny_zoo: Path, store: Store) -> None:
    request = request_of(tiny_zoo)
    assert sum(progress.images for progress in execute(request, store)) == Schedule(request=request).work


# What it may cost


@pytest.mark.parametrize(
    "flags", [{"steps": (20,)}, {"steps": (30,), "restarts": (2,)}, {"norm": ("linf",), "eps": ("4/255",)}]
)
def test_quick_evidence_costs_no_more_than_the_attack_or_than_twenty_steps(
    flags: dict[str, Any], tiny_zoo: Path, store: Store
) -> None:
    """But for the second search, for images that are called, and for the one image that a check always has."""
    request = request_of(tiny_zoo, **{"model": NAMES[:1], "limit": 60, **flags})
    carry_out(request, store)
    (cell,) = request.cells
    sums = store.sums(cell)
    limited = [row for row in store.results(cell.key) if row.check != "other_losses" and row.part != "called"]
    spent, longest = sum(row.passes for row in limited), max(row.passes for row in limited)
    assert 0 < spent <= max(sums.forward_passes + sums.backward_passes, 41 * sums.robust_correct) + 5 * longest


def test_the_second_search_examines_every_robust_image_and_some_at_length(tiny_zoo: Path, store: Store) -> None:
    request = request_of(tiny_zoo, model=NAMES[:1], limit=120)
    carry_out(request, store)
    (cell,) = request.cells
    rows = {row.image: row for row in store.results(cell.key) if row.check == "other_losses"}
    assert rows.keys() == set(store.robust(cell))
    by_part = {part: [row for row in rows.values() if row.part == part] for part in ("screened", "nearest", "sample")}
    assert len(by_part["sample"]) == FEWEST
    assert len(by_part["nearest"]) >= FEWEST
    assert by_part["screened"]
    # The nearest are those that the brief search came nearest to breaking.
    reached = min(row.value for row in by_part["nearest"] if row.value is not None)
    assert all(row.broken or (row.value is not None and row.value <= reached) for row in by_part["screened"])
    short, deep = other_losses.SCREEN[0].passes, sum(attack.passes for attack in other_losses.DEEP)
    assert all(row.passes <= short for row in by_part["screened"])
    assert all(row.broken or row.passes > short for row in by_part["nearest"])
    # The very nearest were searched again.
    assert any(row.passes > short + deep for row in by_part["nearest"])


def test_an_attack_that_costs_nothing_is_examined_all_the_same(tiny_zoo: Path, store: Store) -> None:
    """One draw of noise proves nothing, and a share of one pass would buy no search at all."""
    request = request_of(tiny_zoo, model=("tiny-natural",), attack=("noise",), limit=60)
    carry_out(request, store)
    (cell,) = request.cells
    searched = [row for row in store.results(cell.key) if row.check == "other_losses"]
    assert len(searched) >= 10
    assert make_records(store, request.identity)["trust"].tolist() == ["suspect"]


# Randomness


def test_no_check_draws_what_the_attack_or_another_check_has_drawn(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, set[tuple[int | str, ...]]] = {}
    working: list[str] = ["attack"]
    real_call, real_carry_out = PerImageRng.__call__, stage._carried_out

    def call(self: PerImageRng, restart: int) -> list[torch.Generator]:
        keys = {(self.seed, index, *self.key, restart) for index in self.indices}
        drawn.setdefault(working[-1], set()).update(keys)
        return real_call(self, restart)

    def carried_out(examine: stage.Examine, subject: str, check: str, cells: Sequence[Cell]) -> tuple[Row, ...]:
        working.append(check)
        found = real_carry_out(examine, subject, check, cells)
        working.pop()
        return found

    monkeypatch.setattr(PerImageRng, "__call__", call)
    monkeypatch.setattr(stage, "_carried_out", carried_out)
    rows_of(request_of(tiny_zoo, model=("tiny-natural",), start="random", restarts=(2,)))
    assert {"attack", "noise", "black_box", "more_steps", "other_losses"} <= drawn.keys()
    everything = [key for keys in drawn.values() for key in keys]
    assert len(everything) == len(set(everything))
    # A check's stream has its name, so that no other check moves it.
    for name in drawn.keys() - {"attack"}:
        assert {key[2] for key in drawn[name]} == {name}


def test_another_seed_gives_a_check_other_draws(tiny_zoo: Path) -> None:
    flags: dict[str, Any] = {"model": ("tiny-natural",), "attack": ("noise",), "eps": ("1",)}
    found = [rows_of(request_of(tiny_zoo, **flags, seed=seed))["results"] for seed in (0, 1)]
    assert found[0] != found[1]


# The space of an encoding


def test_transfer_is_not_done_in_the_space_of_an_encoding(tiny_zoo: Path, store: Store) -> None:
    request = request_of(tiny_zoo, model=("tiny-bcos", "digits-bcos-b2"), space="encoded", limit=10)
    carry_out(request, store)
    said = {store.evidence(cell.key)["transfer"].skipped_because for cell in request.cells}
    assert said == {"adversarial examples in the space of one model's encoding are no images for another"}


# A look at the model


def test_the_first_sixteen_images_are_asked_about(tiny_zoo: Path, store: Store) -> None:
    request = request_of(tiny_zoo, model=("tiny-natural",))
    carry_out(request, store)
    found = store.results("tiny-natural")
    asked = [row.image for row in found if row.check == "stochastic"]
    assert asked == sorted(request.subset.indices[:16])
    # What compares other readings of the weights decides nothing on so few images, and has no rows.
    assert set(MODEL_CHECKS) - {row.check for row in found} == {"assumed_arguments", "pixel_range"}


# A target


@pytest.mark.parametrize("target", ["3", "least_likely"])
def test_checks_search_for_what_the_criterion_asks_for(target: str, tiny_zoo: Path, store: Store) -> None:
    """What a check breaks is turned into the target class; what aims at all wrong classes is left out."""
    request = request_of(
        tiny_zoo, model=("tiny-natural",), limit=12, criterion="targeted", target=target, eps=("0.5",), evidence="full"
    )
    carry_out(request, store)
    (cell,) = request.cells
    robust, labels = set(store.robust(cell)), {image: row.label for image, row in store.clean("tiny-natural").items()}
    assert robust
    for check in checks_of("full", AbstractSearchCheck):
        assert store.evidence(cell.key)[check.name].skipped_because == ""
        found = [row for row in store.results(cell.key) if row.check == check.name]
        assert {row.image for row in found} == robust
        assert target != "3" or all(labels[row.image] != 3 for row in found)
    # A target is harder to reach than any wrong class.
    (row,) = make_records(store, request.identity).to_dict("records")
    (plain,) = make_records_of(request_of(tiny_zoo, model=("tiny-natural",), limit=12, eps=("0.5",), evidence="full"))
    assert row["worst_correct"] >= plain["worst_correct"]


def make_records_of(request: Request) -> list[dict[Any, Any]]:
    with Store() as store:
        carry_out(request, store)
        return make_records(store, request.identity).to_dict("records")
