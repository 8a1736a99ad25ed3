"""Checks that a user's file registers: carried out, stored, judged and written into evidence.csv as all others are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_bcos.bench import trial
from robustbench_bcos.bench.evidence import contexts
from robustbench_bcos.bench.evidence.trust import Judgement
from robustbench_bcos.bench.records import make_evidence, make_records
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import Broken
from tests.bench.evidence.planted import IMAGES, LABELS, zoo
from tests.bench.own_request import own_request
from tests.bench.tiny_zoo import carry_out

pytestmark = pytest.mark.usefixtures("registries")

HEAD = """
import torch

from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import (
    AbstractCellCheck, AbstractModelCheck, AbstractSearchCheck, AbstractVerdictsCheck, NotApplicable
)
from robustbench_bcos.bench.evidence.found import Found


@CHECKS.registered("own")
"""

VERDICTS = """
class Own(AbstractVerdictsCheck):
    asks, rule = "that were attacked", "any"

    def count(self, verdicts):
        return len(verdicts.attacked), len(verdicts.attacked)
"""
MODEL = """
class Own(AbstractModelCheck):
    asks, rule = "that are images", "any"

    def examine(self, model):
        return Found(against=torch.ones(len(model.images), dtype=torch.bool), passes=1)
"""
CELL = """
class Own(AbstractCellCheck):
    asks, rule = "that are robust", "any"

    def examine(self, cell):
        for image in cell.robust:
            yield cell.row(self, image, against=True, passes=2)
"""
SEARCH = """
class Own(AbstractSearchCheck):
    asks, rule, budget = "that noise does not break", "any", 0.1

    def attacks(self, attack, *, full):
        return [Noise(restarts=2)]

    def against(self, broken):
        return ~broken
"""
NOT_APPLICABLE = """
class Own(AbstractCellCheck):
    asks, rule = "that nobody sees", "any"

    def examine(self, cell):
        yield cell.row(self, cell.robust[0], against=True, passes=2)
        raise NotApplicable("it is Sunday")
"""
NOT_SERVED = """
class Own(AbstractSearchCheck):
    asks, rule = "broken by what serves no target", "any"

    def attacks(self, attack, *, full):
        return [TargetedAPGD(steps=1)]
"""
LUCK = """
class Own(AbstractSearchCheck):
    asks, rule = "broken by luck", "search"

    def attacks(self, attack, *, full):
        return [Noise(restarts=1)]

    def deeper(self, attack):
        return [Luck()]


class Luck(AbstractAttack):
    passes = 41

    def _search(self, problem):
        found = PGD(steps=20).solve(problem)
        lucky = torch.tensor([bool(torch.rand(1, generator=source) < 0.25) for source in problem.rng(0)])
        return AttackResult(torch.where(lucky[:, None, None, None], found.adversarials, problem.images), found.trace)
"""
OUT_OF_MEMORY = """
class Own(AbstractCellCheck):
    asks, rule = "that fit nowhere", "any"

    def examine(self, cell):
        raise torch.OutOfMemoryError("too many images")
"""
BROKEN = """
class Own(AbstractModelCheck):
    asks, rule = "that show a bug", "any"

    def examine(self, model):
        raise RuntimeError("a bug of the check")
"""

Asked = Callable[..., Request]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """A small request, with a plug-in or none."""

    def ask(plugin: str = "", **flags: Any) -> Request:
        file = tmp_path / "own_check.py"
        file.write_text(HEAD + plugin, encoding="utf-8")
        options: dict[str, Any] = {"eps": ("0.1",), "steps": (2,), "evidence": "quick"}
        options |= {"plugin": (file,)} if plugin else {}
        return own_request({"net": zoo()}, IMAGES[:20], LABELS[:20], 10, **options | flags)

    return ask


@pytest.mark.parametrize(("in_vain", "least", "most"), [(contexts.IN_VAIN, 0.95, 1.0), (0, 0.05, 0.5)])
def test_images_that_one_draw_in_four_breaks_are_broken_by_a_search_that_is_repeated(
    in_vain: int, least: float, most: float, asked: Asked, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "IN_VAIN", in_vain)
    request = asked(LUCK, attack=("noise",), eps=("1.5",))
    carry_out(request, store)
    rows = [row for row in store.results(request.cells[0].key) if row.check == "own"]
    assert len(rows) > 15
    assert least <= sum(row.broken for row in rows) / len(rows) <= most


def test_repeated_searches_break_the_images_that_they_are_of(
    asked: Asked, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "AGAIN", 64)
    drawn = "[bool(torch.rand(1, generator=source) < 0.25) for source in problem.rng(0)]"
    assert drawn in LUCK
    on_even = f"[one and not index % 2 for one, index in zip({drawn}, problem.rng.indices)]"
    request = asked(LUCK.replace(drawn, on_even), attack=("noise",), eps=("1.5",))
    carry_out(request, store)
    rows = [row for row in store.results(request.cells[0].key) if row.check == "own"]
    assert {row.image % 2 for row in rows if row.broken} == {0}
    assert sum(row.broken for row in rows) >= 0.9 * sum(not row.image % 2 for row in rows) > 5


@pytest.mark.parametrize(
    ("plugin", "of_cell"),
    [(VERDICTS, None), (MODEL, False), (CELL, True), (SEARCH, True)],
    ids=["verdicts", "model", "cell", "search"],
)
def test_a_check_of_each_scope_is_carried_out_stored_judged_and_shown(
    plugin: str, of_cell: bool | None, asked: Asked, store: Store
) -> None:
    request = asked(plugin)
    carry_out(request, store)
    (cell,) = request.cells
    if of_cell is not None:
        subject = cell.key if of_cell else "net"
        rows = [row for row in store.results(subject) if row.check == "own"]
        assert store.evidence(subject)["own"].skipped_because == ""
        assert rows
        assert all(row.against and not row.broken for row in rows)
    records, evidence = make_records(store, request.identity), make_evidence(store, request.identity)
    assert records["trust"].tolist() == ["suspect"]
    assert "own" in records["reasons"].item().split("; ")
    (line,) = evidence[evidence["check"] == "own"].to_dict("records")
    assert (line["cell"], line["status"]) == (cell.key, "undermined")
    assert 0 < line["against"] == line["examined"]
    assert line["sentence"].startswith(f"{line['against']} of {line['examined']} images that ")
    assert line["link"] == ""  # The package's documentation says nothing of it.


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [(NOT_APPLICABLE, "it is Sunday"), (OUT_OF_MEMORY, "memory ran out")],
    ids=["not applicable", "out of memory"],
)
def test_a_check_that_cannot_be_done_says_why_and_accuses_nobody(
    plugin: str, reason: str, asked: Asked, store: Store
) -> None:
    request = asked(plugin)
    carry_out(request, store)
    (cell,) = request.cells
    assert store.evidence(cell.key)["own"].skipped_because == reason
    assert "own" not in {row.check for row in store.results(cell.key)}
    trust = Judgement(store, request.identity).of(cell)
    (said,) = (outcome for outcome in trust.outcomes if outcome.check == "own")
    assert (said.status, said.sentence) == ("not done", f"not done: {reason}")
    assert trust.trust == "sound"
    assert "own not done" in trust.reasons.split("; ")


def test_a_search_whose_attacks_do_not_serve_the_criterion_is_not_done(asked: Asked, store: Store) -> None:
    request = asked(NOT_SERVED, criterion="targeted", target="3")
    carry_out(request, store)
    (cell,) = request.cells
    said = store.evidence(cell.key)["own"].skipped_because
    assert said.startswith("targeted APGD chooses its own targets and cannot pursue targeted:3")


def test_a_bug_of_a_check_is_not_hidden(asked: Asked, store: Store) -> None:
    with pytest.raises(Broken, match=r"a plug-in failed .*a bug of the check, .*own_check\.py, line \d+"):
        carry_out(asked(BROKEN), store)


@pytest.mark.parametrize("plugin", [MODEL, CELL], ids=["model", "cell"])
def test_a_check_that_was_registered_after_a_run_is_made_up_for(plugin: str, asked: Asked, store: Store) -> None:
    """As when a package with checks is installed between two sessions: the row is unchecked in between."""
    request = asked()
    carry_out(request, store)
    assert make_records(store, request.identity)["trust"].tolist() == ["sound"]
    later = asked(plugin)
    assert make_records(store, later.identity)["reasons"].tolist() == ["evidence not finished"]
    carry_out(later, store)
    assert "own" in make_records(store, later.identity)["reasons"].item().split("; ")
    assert sum(progress.images for progress in execute(later, store)) > 0


def test_a_search_out_of_memory_goes_on_with_fewer_images(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(request: Request) -> list[Any]:
        with Store() as store:
            carry_out(request, store)
            return store.results(request.cells[0].key)

    request, real, sizes = asked(SEARCH), trial.attack_and_judge, []

    def small(attack: Any, target: Any, **options: Any) -> Any:
        sizes.append(len(target.images))
        if len(target.images) > 4:
            raise torch.OutOfMemoryError("too many images")
        return real(attack, target, **options)

    expected = rows(request)
    monkeypatch.setattr(trial, "attack_and_judge", small)
    assert rows(request) == expected
    assert max(sizes) > 4 >= min(sizes)
