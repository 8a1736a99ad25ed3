"""What follows from the checks: how many images are really robust, whether the number can be trusted, and why not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import (
    PAGE,
    POINTS,
    AbstractCellCheck,
    AbstractCheck,
    AbstractModelCheck,
    AbstractSearchCheck,
    AbstractVerdictsCheck,
    checks_of,
    is_finished,
)
from robustbench_bcos.bench.evidence.selection import Selection, nearest_first
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.rows import CleanRow, DistanceRow, ResultRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.statistics import clopper_pearson

Status = Literal["held", "repaired", "undermined", "reported", "not done"]

Level = Literal["suspect", "unchecked", "sound"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""How far a number can be trusted, the least first."""

UNFINISHED = "evidence not finished"
"""The reason of rows whose checks are yet to be carried out."""

GROSS = 20.0
"""Percentage points that a second search may take from a number before the first one counts as no attack on this
model at all."""

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

    trust: Level
    reasons: str = ""
    """Names of the checks that undermine the number, then what could not be done."""
    worst_correct: int
    """Images that stayed robust against everything tried on this model within this epsilon."""
    examined: int = 0
    """Different images that a further attack was spent on."""
    passes: int = 0
    """Forward and backward passes of all checks of the cell."""
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Images of a cell by what happened to them."""

    nearest_first: Sequence[int]
    """Attacked and not broken, the nearest to being broken first."""
    robust: frozenset[int]
    """The same."""
    broken: frozenset[int]
    """By the attack."""
    broken_by_checks: frozenset[int]


class Judgement:
    """The judgement on every cell of a run, from its store alone."""

    def __init__(self, store: Store, identity: RunIdentity) -> None:
        self.store = store
        self.identity = identity
        self._trusts: dict[str, Trust] = {}
        self._read: dict[str, _Images] = {}
        self._clean: tuple[str, list[CleanRow]] = "", []

    def of(self, cell: Cell) -> Trust:
        """Weigh what was found for a cell, once."""
        if cell.key not in self._trusts:
            self._trusts[cell.key] = self._weigh(cell)
        return self._trusts[cell.key]

    def _weigh(self, cell: Cell) -> Trust:
        robust = self.store.sums(cell).robust_correct
        correct = robust - len(self.broken_elsewhere(cell))
        lacking = cell.attack.lacks(cell.threat.norm)
        incomplete = [without(cell.attack.name, part) for part in lacking]
        lacked = [_not_done(part, why, PAGE) for part, why in lacking.items()]
        if not is_finished(self.identity.evidence, cell, self.store):
            return Trust(trust="unchecked", reasons=UNFINISHED, worst_correct=correct)
        results = self.store.results(cell.key)
        found = [*self._of_verdicts(cell), *self._of_model(cell), *self._of_cell(cell, results)]
        checked = [_weighed(outcome, robust) for outcome in found]
        outcomes = [*checked, *self._left_out(cell)]
        if self.identity.evidence == "off":
            # What nobody asked to be checked is no reason for praise.
            outcomes = [outcome for outcome in checked if outcome.status == "undermined"]
        undermined = [outcome.check for outcome in outcomes if outcome.status == "undermined"]
        skipped = [f"{outcome.check} not done" for outcome in outcomes if outcome.status == "not done"]
        return Trust(
            trust="suspect" if undermined or lacking else "unchecked" if self.identity.evidence == "off" else "sound",
            reasons="; ".join(incomplete + undermined + skipped),
            worst_correct=correct,
            examined=len({row.image for row in results}),
            passes=sum(row.passes for row in results),
            outcomes=(*outcomes, *lacked),
        )

    def broken_elsewhere(self, cell: Cell) -> set[int]:
        """Images that the cell's attack did not break, but something else within its epsilon did.

        Another attack of the run, or a check of this cell or of another; nothing counts where no evidence is gathered.
        """
        if self.identity.evidence == "off":
            return set()
        within = [self._images(other) for other in (cell, *self._within(cell))]
        broken = {image for images in within for image in images.broken | images.broken_by_checks}
        return broken & self._images(cell).robust

    def _images(self, cell: Cell) -> _Images:
        """What happened to the images of a cell, read once."""
        if cell.key not in self._read:
            robust = self.store.robust(cell)
            self._read[cell.key] = _Images(
                nearest_first=robust,
                robust=frozenset(robust),
                broken=frozenset(self.store.broken(cell)),
                broken_by_checks=frozenset(row.image for row in self.store.results(cell.key) if row.broken),
            )
        return self._read[cell.key]

    def _predictions(self, model: str) -> list[CleanRow]:
        """Without an attack, read once for cells that follow one another."""
        if self._clean[0] != model:
            self._clean = model, self.store.select(CleanRow, model=model)
        return self._clean[1]

    def _within(self, cell: Cell) -> list[Cell]:
        """Other cells of the model whose perturbations are allowed in this one."""
        return [
            other
            for other in self.identity.cells
            if other != cell
            and (other.model, other.space, other.criterion) == (cell.model, cell.space, cell.criterion)
            and cell.threat.contains(other.threat)
        ]

    def _of_verdicts(self, cell: Cell) -> list[Outcome]:
        within = self._within(cell)
        # A step size that was given is another one in terms of another epsilon, and yet the same attack.
        alike = [other for other in within if other.attack.at_any_step_size == cell.attack.at_any_step_size]
        others = [other for other in within if other not in alike]
        context = VerdictsContext(
            cell=cell,
            classes=self.identity.classes,
            adversarial=bool(self.identity.adversarial),
            clean=self._predictions(cell.model),
            attacked=[row for row in self.store.verdicts(cell) if row.attacked],
            robust=self._images(cell).robust,
            broken_by_same_attack=frozenset(image for other in alike for image in self._images(other).broken),
            broken_by_other_attacks=frozenset(image for other in others for image in self._images(other).broken),
            distances=self.store.select(DistanceRow, model=cell.model, norm=cell.threat.norm),
        )
        outcomes = []
        for check in checks_of(self.identity.evidence, AbstractVerdictsCheck):
            examined, against = check.count(context)
            status = self._gain(check, against) if check.rule == "search" else _status(check, examined, against)
            outcomes.append(
                _outcome(
                    check, status, examined=examined, against=against, finding=check.finding(context) if against else ""
                )
            )
        return outcomes

    def _left_out(self, cell: Cell) -> list[Outcome]:
        """Parts of the attack that could not be had."""
        left_out = cell.attack.left_out(self.identity.classes)
        return [_not_done(name, why, PAGE) for name, why in left_out.items()]

    def _of_model(self, cell: Cell) -> list[Outcome]:
        results = self.store.results(cell.model)
        return [
            self._plain(check, [row for row in results if row.check == check.name], cell.model)
            for check in checks_of(self.identity.evidence, AbstractModelCheck)
        ]

    def _of_cell(self, cell: Cell, results: Sequence[ResultRow]) -> list[Outcome]:
        along_gradients = {
            check.name
            for check in checks_of("full", AbstractSearchCheck)
            if check.rule == "search" and check.along_gradients(cell.attack)
        }
        by_gradients = {row.image for row in results if row.broken and row.check in along_gradients}
        outcomes = []
        for check in checks_of(self.identity.evidence, AbstractCellCheck):
            rows = [row for row in results if row.check == check.name]
            if check.rule == "search":
                outcomes.append(self._of_search(cell, check, rows))
            elif check.rule == "gradients":
                weak = sum(row.against and row.image in by_gradients for row in rows)
                outcomes.append(self._plain(check, rows, cell.key, explained=weak))
            else:
                outcomes.append(self._plain(check, rows, cell.key))
        return outcomes

    def _plain(self, check: AbstractCheck, rows: Sequence[ResultRow], subject: str, explained: int = 0) -> Outcome:
        """A check that is no second search; of its images, a search along gradients explains so many."""
        skipped = self._skipped(subject, check)
        if skipped:
            return _not_done(check.name, skipped, check.link)
        against = sum(row.against for row in rows)
        unexplained = against - explained
        status = _status(check, len(rows), unexplained)
        if status == "held" and explained:
            status = "repaired"
        values = [row.value for row in rows if row.value is not None]
        finding = self.store.evidence(subject)[check.name].finding
        return _outcome(
            check,
            status,
            examined=len(rows),
            against=unexplained or against,
            value=max(values, default=None),
            finding=finding,
        )

    def _of_search(self, cell: Cell, check: AbstractCheck, rows: Sequence[ResultRow]) -> Outcome:
        skipped = self._skipped(cell.key, check)
        if skipped:
            return _not_done(check.name, skipped, check.link)
        broken = sum(row.broken for row in rows)
        status = self._gain(check, broken)
        if status != "undermined" and self._more_would_break(cell, rows):
            status = "undermined"
        return _outcome(check, status, examined=len(rows), against=broken)

    def _gain(self, check: AbstractCheck, broken: int) -> Status:
        """Whether the second search broke too many images for the number merely to be corrected."""
        if broken == 0:
            return "held"
        images = self.identity.images
        beyond = broken > max(GROSS / 100 * images, 1) if check.gross else _at_least(broken, images) > POINTS / 100
        return "undermined" if beyond else "repaired"

    def _more_would_break(self, cell: Cell, rows: Sequence[ResultRow]) -> bool:
        """Whether images that were not examined would cost the number more than ``POINTS``."""
        images = self.identity.images
        searched = [row for row in rows if row.part != "screened"]
        screened = len(rows) > len(searched)
        if screened:
            left = {row.image for row in rows if row.part != "screened" or not row.broken}
            robust: Sequence[int] = [image for image in nearest_first(rows) if image in left]
        else:
            robust = self._images(cell).nearest_first
        unexamined = len(robust) - len(searched)
        if unexamined <= 0:
            return False
        sample = [row.broken for row in searched if row.part == "sample"]
        elsewhere = _at_least(sum(sample), len(sample)) * unexamined
        # The nearest are examined until none of the last ones breaks. Where many still do, there was too little to
        # spend, and at the same rate as many images again would be lost.
        nearest = {row.image: row.broken for row in searched if row.part == "nearest"}
        last = Selection.of(robust, images, len(robust)).last(nearest)
        following = _at_least(sum(nearest[image] for image in last), len(last)) * len(nearest)
        # Half a point of few images is less than one of them, and less than one image is nothing to be accused of.
        return bool(max(elsewhere, following) > max(POINTS / 100 * images, 1))

    def _skipped(self, subject: str, check: AbstractCheck) -> str:
        """Why a check could not be carried out; empty where it was."""
        return self.store.evidence(subject)[check.name].skipped_because


def without(attack: str, part: str = "") -> str:
    """The reason of a row whose attack is not what was published under its name, or how such reasons begin."""
    return f"{attack} without {part}"


def least_trusted(trusts: Iterable[str]) -> Level:
    """The trust of what follows from several numbers: unchecked where a word is none of these, or there is none."""
    known: set[Level] = {trust if trust in LEVELS else "unchecked" for trust in trusts}
    return min(known, key=LEVELS.index, default="unchecked")


def _at_least(broken: int, total: int) -> float:
    """Lower bound of a fraction, one-sided at 95 %."""
    return clopper_pearson(broken, total, ONE_SIDED).low if total else 0.0


def _status(check: AbstractCheck, examined: int, against: int) -> Status:
    if check.rule == "report":
        return "reported"
    if check.rule == "share":
        return "undermined" if _at_least(against, examined) > check.tolerated else "held"
    return "undermined" if against else "held"


def _outcome(
    check: AbstractCheck,
    status: Status,
    *,
    examined: int,
    against: int,
    value: float | None = None,
    finding: str = "",
) -> Outcome:
    sentence = f"{against} of {examined} images {check.asks}" + (f": {finding}" if finding else "")
    return Outcome(
        check=check.name,
        status=status,
        examined=examined,
        against=against,
        value=value,
        sentence=sentence,
        link=check.link,
    )


def _weighed(outcome: Outcome, robust: int) -> Outcome:
    """A number that is 0 cannot be too high, so checks that suspect it of that are reported and undermine nothing."""
    if outcome.status != "undermined" or CHECKS[outcome.check].can_undermine(robust):
        return outcome
    return replace(outcome, status="reported")


def _not_done(name: str, why: str, link: str) -> Outcome:
    return Outcome(check=name, status="not done", examined=0, against=0, sentence=f"not done: {why}", link=link)
