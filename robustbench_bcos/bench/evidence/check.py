"""What a check is: a question put to a number, a rule for what follows, and a way to examine it.

There are three scopes, by where the answer is: in the verdicts of the run, in a look at the model, or in further work
on a cell's images. A check is a subclass of the scope's class.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar, final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.rows import ResultRow, TransferRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.types import Flags, Images

if TYPE_CHECKING:
    from robustbench_bcos.bench.evidence.contexts import CellContext, ModelContext
    from robustbench_bcos.bench.evidence.verdicts import VerdictsContext

Rule = Literal["any", "gradients", "share", "search", "report"]
"""``any``: one image undermines the number. ``gradients``: one image does that no search along gradients broke.
``share``: more images than chance explains. ``search``: more images than are repaired. ``report``: nothing follows."""

RULES: tuple[Rule, ...] = ("any", "gradients", "search", "share", "report")
"""In the order in which checks of a cell are carried out: a search also looks at images that were broken without
gradients."""

PAGE = "docs/reference/checks.md"

POINTS = 0.5
"""Percentage points by which a number may be too high."""


class NotApplicable(Exception):
    """The check cannot be carried out here; the message says why, as the end of a sentence."""


class AbstractCheck(ABC):
    """One question put to a number."""

    name: ClassVar[str]
    asks: ClassVar[str]
    """What must not be found, as the end of a sentence that begins with a count of images."""
    rule: ClassVar[Rule]
    of_misses: ClassVar[bool] = False
    """Whether all that it doubts is that the attack found every adversarial example, as ``gradients`` and ``search``
    do: it says nothing against a number that is 0."""
    gross: ClassVar[bool] = False
    """Whether it searches in another way than the attack, so that a few images more are no reason to distrust it."""
    full_only: ClassVar[bool] = False
    """Whether it is left out of ``--evidence quick``."""
    always: ClassVar[bool] = False
    """Whether it has its say in ``--evidence off``, too: of what the run has recorded, where that asks for nothing."""
    budget: ClassVar[float] = 0.0
    """Part of the attack's passes that it may spend in ``--evidence quick``; all together never spend more than the
    attack, and the last one has what the others leave."""

    tolerated: ClassVar[float] = 0.05
    """Share of the images that may speak against the number where ``share`` is the rule; by default what an attack may
    miss of planted adversarial examples (Zimmermann et al., 2022)."""

    def can_undermine(self, robust: int) -> bool:
        """Whether what it finds speaks against a number, where the attack left so many images robust."""
        return robust > 0 or not (self.of_misses or self.rule in {"gradients", "search"})

    @property
    def link(self) -> str:
        """Where it is explained; by default only checks of the package are."""
        return f"{PAGE}#{self.name}" if self.name in CHECKS.packaged else ""

    def passes(self, attack: AbstractAttack) -> int:
        """Forward and backward passes that ``--evidence full`` spends at most on an image."""
        return 0


class AbstractVerdictsCheck(AbstractCheck):
    """A check of what the run has recorded already; it costs nothing."""

    @abstractmethod
    def count(self, verdicts: "VerdictsContext") -> tuple[int, int]:
        """How many images were examined, and how many of them speak against the number."""

    def finding(self, verdicts: "VerdictsContext") -> str:
        """What the counts do not say, in words; empty where they say everything."""
        return ""


class AbstractModelCheck(AbstractCheck):
    """A look at a model, once for all its cells."""

    @abstractmethod
    def examine(self, model: "ModelContext") -> Found:
        """The answers for some images of the evaluation subset."""


class AbstractCellCheck(AbstractCheck):
    """Further work on the images of one cell."""

    @abstractmethod
    def examine(self, cell: "CellContext") -> Iterator[ResultRow | TransferRow]:
        """A row for each image that was examined.

        Raises:
            NotApplicable: the question has no sense here, or cannot be answered.
        """


class AbstractSearchCheck(AbstractCellCheck):
    """Further attacks on images that are still robust, one after the other on those that remain so."""

    fewest: ClassVar[int] = 1
    """Images that ``--evidence quick`` examines, whatever that costs."""

    @abstractmethod
    def attacks(self, attack: AbstractAttack, *, full: bool) -> Sequence[AbstractAttack]:
        """The further attacks.

        Args:
            attack: the cell's own.
            full: whether all images are examined, whatever that costs.
        """

    def deeper(self, attack: AbstractAttack) -> Sequence[AbstractAttack]:
        """Longer attacks, for the images that the ones before came nearest to breaking; repeated for the very nearest.

        By default there are none. Where there are some, ``--evidence quick`` screens every robust image with the first
        of :meth:`attacks`, whatever that costs.
        """
        return ()

    def threat(self, threat: Threat, images: Images) -> Threat:
        """Where they search; by default within the cell's own threat."""
        return threat

    def against(self, broken: Flags) -> Flags:
        """Which images speak against the number; by default those that a further attack breaks."""
        return broken

    def along_gradients(self, attack: AbstractAttack) -> bool:
        """Whether an image that it breaks was broken along gradients."""
        return False

    @final
    def examine(self, cell: "CellContext") -> Iterator[ResultRow]:
        """Search for the nearest images, for as long as some are broken, and for a sample of the others."""
        yield from cell.search(self)

    def passes(self, attack: AbstractAttack) -> int:
        """Those of all further attacks."""
        further = chain(self.attacks(attack, full=True), self.deeper(attack))
        return sum(search.passes for search in further)


C = TypeVar("C", bound=AbstractCheck)


def checks_of(evidence: str, scope: type[C]) -> list[C]:
    """The checks of ``quick`` or ``full`` evidence of one scope, in the order in which they are carried out.

    By rule, then by budget, the cheap ones first. Of ``off``, those that are ``always`` there.
    """
    found = [check for check in (CHECKS[name] for name in CHECKS) if isinstance(check, scope)]
    chosen = [check for check in found if _belongs(check, evidence)]
    return sorted(chosen, key=lambda check: (RULES.index(check.rule), check.budget, check.name))


def _belongs(check: AbstractCheck, evidence: str) -> bool:
    return check.always if evidence == "off" else evidence == "full" or not check.full_only


def is_finished(evidence: str, cell: Cell, store: Store) -> bool:
    """Whether every check of a cell, and of its model, has been carried out or skipped."""
    scopes: dict[str, type[AbstractCheck]] = {cell.model: AbstractModelCheck, cell.key: AbstractCellCheck}
    return all(
        store.evidence(subject).keys() >= {check.name for check in checks_of(evidence, scope)}
        for subject, scope in scopes.items()
    )
