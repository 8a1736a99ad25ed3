"""What follows from the checks: how many images are really robust, whether the number can be trusted, and why not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robustbench_bcos.attacks.fab import REMEDY
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence.checks import PAGE, POINTS, Check, checks_of
from robustbench_bcos.bench.evidence.selection import Selection
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.rows import ResultRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.prediction import NO_CLASS
from robustbench_bcos.core.statistics import clopper_pearson

Status = Literal["held", "repaired", "undermined", "reported", "not done"]

UNFINISHED = "evidence not finished"
"""The reason of rows whose checks are yet to be carried out."""

GROSS = 10.0
"""Percentage points that a second search may take from a number before the first one counts as no attack on this
model at all."""

MISSED = 0.05
"""Share of planted adversarial examples that an attack may miss (Zimmermann et al., 2022)."""

ONE_SIDED = 0.9
"""Confidence of an interval whose lower bound is a one-sided bound at 95 %."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check says of a cell."""

    check: str
    status: Status
    examined: int
    against: int
    """Images that speak against the number."""
    value: float | None = None
    """Largest of what was measured."""
    sentence: str
    link: str


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The judgement on one cell."""

    trust: Literal["sound", "suspect", "unchecked"]
    reasons: str = ""
    """Names of the checks that undermine the number, then what could not be done."""
    worst_correct: int
    """Images that stayed robust against everything tried on this model within this epsilon."""
    examined: int = 0
    """Different images that a further attack was spent on."""
    passes: int = 0
    """Forward and backward passes of all checks of the cell."""
    outcomes: tuple[Outcome, ...] = ()


class Judgement:
    """The judgement on every cell of a run, from its store alone."""

    def __init__(self, store: Store, identity: RunIdentity) -> None:
        self.store = store
        self.identity = identity
        self._trusts: dict[str, Trust] = {}
        self._fooled: dict[str, set[int]] = {}
        self._fallen: dict[str, set[int]] = {}
        self._withstood: dict[str, set[int]] = {}

    def of(self, cell: Cell) -> Trust:
        """Weigh what was found for a cell, once."""
        if cell.key not in self._trusts:
            self._trusts[cell.key] = self._weigh(cell)
        return self._trusts[cell.key]

    def _weigh(self, cell: Cell) -> Trust:
        if self.identity.evidence == "off":
            return Trust(trust="unchecked", worst_correct=len(self.standing(cell)))
        if not self._finished(cell):
            return Trust(trust="unchecked", reasons=UNFINISHED, worst_correct=len(self.standing(cell)))
        findings = self.store.select(ResultRow, subject=cell.key)
        checked = [*self._of_verdicts(cell), *self._of_model(cell), *self._of_cell(cell, findings)]
        outcomes = [*checked, *self._left_out(cell)]
        undermined = [outcome.check for outcome in outcomes if outcome.status == "undermined"]
        undone = [f"{outcome.check} not done" for outcome in outcomes if outcome.status == "not done"]
        return Trust(
            trust="suspect" if undermined else "sound",
            reasons="; ".join(undermined + undone),
            worst_correct=len(self.standing(cell)),
            examined=len({row.image for row in findings}),
            passes=sum(row.passes for row in findings),
            outcomes=tuple(outcomes),
        )

    def _finished(self, cell: Cell) -> bool:
        wanted = {check.name for check in checks_of(self.identity.evidence, "cell")}
        return self.store.evidence(cell.key).keys() >= wanted

    def standing(self, cell: Cell) -> set[int]:
        """Images that withstood everything tried on this model within this radius; without evidence, the attack."""
        if self.identity.evidence == "off":
            return self.withstood(cell)
        return self.withstood(cell) - self._fallen_elsewhere(cell, [cell, *self._within(cell)])

    def withstood(self, cell: Cell) -> set[int]:
        """Images that the cell's own attack did not fool."""
        if cell.key not in self._withstood:
            self._withstood[cell.key] = set(self.store.robust(cell))
        return self._withstood[cell.key]

    def fooled(self, cell: Cell) -> set[int]:
        """Images that the cell's own attack fooled."""
        if cell.key not in self._fooled:
            attacked = {row.image for row in self.store.verdicts(cell) if row.attacked}
            self._fooled[cell.key] = attacked - self.withstood(cell)
        return self._fooled[cell.key]

    def fallen_to_checks(self, cell: Cell) -> set[int]:
        """Images that a check of the cell fooled within its radius."""
        if cell.key not in self._fallen:
            self._fallen[cell.key] = {row.image for row in self.store.select(ResultRow, subject=cell.key) if row.broken}
        return self._fallen[cell.key]

    def _within(self, cell: Cell) -> list[Cell]:
        """Other cells of the model whose candidates are within the radius of this one."""
        return [
            other
            for other in self.identity.cells
            if other != cell
            and (other.model, other.norm, other.space) == (cell.model, cell.norm, cell.space)
            and other.radius.value <= cell.radius.value
        ]

    def _fallen_elsewhere(self, cell: Cell, others: Iterable[Cell], *, checks: bool = True) -> set[int]:
        """Of the images that withstood here, those that did not there."""
        fallen: set[int] = set()
        for other in others:
            fallen |= self.fooled(other)
            if checks:
                fallen |= self.fallen_to_checks(other)
        return fallen & self.withstood(cell)

    def _of_verdicts(self, cell: Cell) -> list[Outcome]:
        verdicts = [row for row in self.store.verdicts(cell) if row.attacked]
        total, withstood = len(verdicts), len(self.withstood(cell))
        within = self._within(cell)
        smaller = [other for other in within if _but_radius(other) == _but_radius(cell)]
        others = [other for other in within if other not in smaller]
        rounded = [row for row in verdicts if row.eight_bit is not None]
        counts = {
            "space": (total, total if cell.space != "image" else 0),
            "not_finite": (total, sum(row.prediction == NO_CLASS or row.margin is None for row in verdicts)),
            "degenerate_gradients": (total, sum(row.degenerate_gradient for row in verdicts)),
            "larger_ball": (withstood, len(self._fallen_elsewhere(cell, smaller, checks=False))),
            "other_attacks": (withstood, len(self._fallen_elsewhere(cell, others, checks=False))),
            "eight_bit": (len(rounded), sum(not row.eight_bit for row in rounded)),
        }
        outcomes = []
        for check in checks_of(self.identity.evidence, "verdicts"):
            examined, against = counts[check.name]
            status = self._gain(against, gross=False) if check.rule == "search" else _status(check, examined, against)
            outcomes.append(_outcome(check, status, examined, against))
        return outcomes

    def _left_out(self, cell: Cell) -> list[Outcome]:
        """Parts of the attack that could not be had."""
        wrong = self.identity.classes - 1
        outcomes = []
        if cell.attack == "autoattack" and not self.identity.fab:
            outcomes.append(_not_done("fab", f"it needs torchattacks, {REMEDY}", PAGE))
        if cell.targets > wrong and cell.attack != "autoattack":
            why = f"{cell.targets} were asked for and there are {wrong} wrong classes, all are aimed at"
            outcomes.append(_not_done("targets", why, PAGE))
        return outcomes

    def _of_model(self, cell: Cell) -> list[Outcome]:
        findings = self.store.select(ResultRow, subject=cell.model)
        return [
            self._plain(check, [row for row in findings if row.check == check.name], cell.model)
            for check in checks_of(self.identity.evidence, "model")
        ]

    def _of_cell(self, cell: Cell, findings: Sequence[ResultRow]) -> list[Outcome]:
        searches = {check.name for check in checks_of("full", "cell") if check.rule == "search"}
        if cell.attack in ("square", "noise"):
            # More of the same, which is not along gradients.
            searches.remove("more_steps")
        by_gradients = {row.image for row in findings if row.broken and row.check in searches}
        outcomes = []
        for check in checks_of(self.identity.evidence, "cell"):
            rows = [row for row in findings if row.check == check.name]
            if check.rule == "search":
                outcomes.append(self._of_search(cell, check, rows))
            elif check.rule == "gradients":
                weak = sum(row.against and row.image in by_gradients for row in rows)
                outcomes.append(self._plain(check, rows, cell.key, explained=weak))
            else:
                outcomes.append(self._plain(check, rows, cell.key))
        return outcomes

    def _plain(self, check: Check, rows: Sequence[ResultRow], subject: str, explained: int = 0) -> Outcome:
        """A check of which one image suffices; some may be explained by what else was found."""
        undone = self._undone(subject, check)
        if undone:
            return _not_done(check.name, undone, check.link)
        against = sum(row.against for row in rows)
        status = _status(check, len(rows), against - explained)
        if status == "held" and explained:
            status = "repaired"
        values = [row.value for row in rows if row.value is not None]
        return _outcome(check, status, len(rows), against - explained or explained, max(values, default=None))

    def _of_search(self, cell: Cell, check: Check, rows: Sequence[ResultRow]) -> Outcome:
        undone = self._undone(cell.key, check)
        if undone:
            return _not_done(check.name, undone, check.link)
        fell = sum(row.broken for row in rows)
        status = self._gain(fell, gross=check.name == "other_losses")
        if status != "undermined" and self._more_would_fall(cell, rows):
            status = "undermined"
        return _outcome(check, status, len(rows), fell)

    def _gain(self, fell: int, *, gross: bool) -> Status:
        """Whether the second search broke too many images for the number merely to be corrected."""
        if fell == 0:
            return "held"
        images = self.identity.images
        beyond = fell / images > GROSS / 100 if gross else _at_least(fell, images) > POINTS / 100
        return "undermined" if beyond else "repaired"

    def _more_would_fall(self, cell: Cell, rows: Sequence[ResultRow]) -> bool:
        """Whether images that were not examined would cost the number more than ``POINTS``."""
        images = self.identity.images
        withstood = self.store.robust(cell)
        unexamined = len(withstood) - len(rows)
        if unexamined <= 0:
            return False
        sample = [row.broken for row in rows if row.part == "sample"]
        elsewhere = _at_least(sum(sample), len(sample)) * unexamined
        # The nearest are examined until none of the last ones falls. Where many still do, there was too little to
        # spend, and at the same rate as many images again would be lost.
        nearest = {row.image: row.broken for row in rows if row.part == "nearest"}
        last = Selection.of(withstood, images, len(withstood)).last(nearest)
        following = _at_least(sum(nearest[image] for image in last), len(last)) * len(nearest)
        # Half a point of few images is less than one of them, and less than one image is nothing to be accused of.
        return bool(max(elsewhere, following) > max(POINTS / 100 * images, 1))

    def _undone(self, subject: str, check: Check) -> str:
        """Why a check could not be carried out; empty where it was."""
        return self.store.evidence(subject)[check.name].skipped_because


def _at_least(fell: int, total: int) -> float:
    """Lower bound of a fraction, one-sided at 95 %."""
    return clopper_pearson(fell, total, ONE_SIDED).low if total else 0.0


def _but_radius(cell: Cell) -> dict[str, Any]:
    """All settings of an attack but the radius, and the step that grows with it."""
    return {key: value for key, value in cell.as_dict().items() if key not in ("radius", "step_size")}


def _status(check: Check, examined: int, against: int) -> Status:
    if check.rule == "report":
        return "reported"
    if check.rule == "share":
        return "undermined" if _at_least(against, examined) > MISSED else "held"
    return "undermined" if against else "held"


def _outcome(check: Check, status: Status, examined: int, against: int, value: float | None = None) -> Outcome:
    sentence = f"{against} of {examined} images {check.asks}"
    return Outcome(
        check=check.name,
        status=status,
        examined=examined,
        against=against,
        value=value,
        sentence=sentence,
        link=check.link,
    )


def _not_done(name: str, why: str, link: str) -> Outcome:
    return Outcome(check=name, status="not done", examined=0, against=0, sentence=f"not done: {why}", link=link)
