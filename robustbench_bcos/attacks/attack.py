"""What an attack is: a search that proposes an adversarial example per image. The judge decides whether it succeeds.

An attack is frozen data, and one module of :mod:`~robustbench_bcos.attacks.searches`. What the rest of the package
needs to know of it, such as its cost or its stronger version, it says itself; nothing else compares an attack's name.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, final

from robustbench_bcos.attacks import UNTARGETED
from robustbench_bcos.attacks.criterion import AbstractCriterion, aim
from robustbench_bcos.attacks.halts import Frame, Frames, Steps, finished, split, within
from robustbench_bcos.attacks.loss import Loss, loss_name, per_image
from robustbench_bcos.attacks.norm import AbstractNorm
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.arrays import Array, read_pairs
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import in_parts
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import (
    AnyModel,
    Classifier,
    Counts,
    Epsilon,
    Flags,
    Goals,
    Images,
    Labels,
    Logits,
    PerImage,
    Tensor,
)


class Trace(NamedTuple):
    """What happened on the way, per image."""

    degenerate_gradient: Flags
    """At some iterate that was no success the gradient was 0 everywhere, or NaN or infinite somewhere."""
    forward_passes: Counts
    backward_passes: Counts

    @classmethod
    def blank(cls, images: Images) -> "Trace":
        """No passes, and no degenerate gradient, for so many images."""
        counts = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return cls(degenerate_gradient=counts.bool(), forward_passes=counts, backward_passes=counts.clone())

    def include(self, other: "Trace", positions: Tensor) -> None:
        """Add what happened to some of the images, in another search."""
        self.degenerate_gradient[positions] |= other.degenerate_gradient
        self.forward_passes[positions] += other.forward_passes
        self.backward_passes[positions] += other.backward_passes


class AttackResult(NamedTuple):
    """The outcome of an attack."""

    adversarials: Images
    """One per image; the judge says whether it is adversarial."""
    trace: Trace

    @property
    def frame(self) -> dict[str, Tensor]:
        """The tensors by name, to be written down when a search is interrupted."""
        return {"adversarials": self.adversarials, **self.trace._asdict()}

    @classmethod
    def of(cls, frame: Frame) -> "AttackResult":
        """The inverse of :attr:`frame`, which may hold other things; nothing in it is changed."""
        return cls(frame["adversarials"].clone(), Trace(*(frame[name].clone() for name in Trace._fields)))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What an attack is asked to solve, checked and on one device."""

    classifier: Classifier
    images: Images
    goals: Goals
    threat: Threat
    criterion: AbstractCriterion
    rng: PerImageRng
    batch_size: int
    """Images that the classifier is shown at a time, at most."""
    starts: Images | None = None
    """Where the first restart begins, within the threat; ``None`` where the attack itself says."""

    def select(self, positions: Tensor) -> "Problem":
        """The same for some of the images: they draw what they would have drawn among all."""
        return replace(
            self,
            images=self.images[positions],
            goals=self.goals[positions],
            starts=None if self.starts is None else self.starts[positions],
            threat=self.threat.select(positions),
            rng=self.rng.select(positions.tolist()),
        )

    def repeated(self, times: int) -> "Problem":
        """All images so many times over, each time with draws of their own."""
        positions = torch.arange(len(self.images), device=self.images.device)
        return replace(self.select(positions.repeat(times)), rng=self.rng.repeated(times))

    def outputs(self, images: Images) -> Tensor:
        """Outputs for as many images as there are, a batch at a time."""
        with torch.no_grad():
            return in_parts(self.classifier, self.batch_size)(images)

    def succeeds(self, images: Images) -> Flags:
        """Whether each image is a success, at the cost of a forward pass."""
        return self.criterion.success(self.outputs(images), self.goals)

    def objective(self, loss: "Loss | str") -> Loss:
        """What is ascended: one number per image, checked."""
        ascended = self.criterion.objective(loss)

        def checked(outputs: Tensor, goals: Tensor) -> PerImage:
            return per_image(ascended(outputs, goals), goals)

        return checked


@dataclass(frozen=True, kw_only=True)
class AbstractAttack(ABC):
    """A search for an image within a threat that meets a criterion.

    Subclasses are frozen keyword-only dataclasses; their fields are the attack's options, under the names that the
    command line has for them.
    """

    name: ClassVar[str]
    uses_gradients: ClassVar[bool] = True
    is_control: ClassVar[bool] = False
    """Whether it searches for nothing, so that its failure is no sign of robustness."""
    has_path: ClassVar[bool] = False
    """Whether it follows one path of iterates that indicators of attack failure can be read from."""
    leaderboard: ClassVar[str] = ""
    """Field of RobustBench's files for the accuracy under it; empty where they have none."""
    moves_maps: ClassVar[bool] = False
    """Whether it ascends whatever order of outputs a criterion has, so that it can move explanations, too."""
    refills: ClassVar[bool] = False
    """Whether images that are done make room for others; any other attack is given one batch after the other."""

    @final
    def __call__(
        self,
        classifier: AnyModel,
        images: Array,
        labels: Array | None = None,
        norm: Threat | str | None = None,
        epsilon: Epsilon | str | None = None,
        *,
        criterion: AbstractCriterion | str = UNTARGETED,
        targets: Array | str | int | None = None,
        rng: PerImageRng | None = None,
        batch_size: int | None = None,
    ) -> AttackResult:
        """Search around each image.

        Args:
            classifier: any differentiable callable from images in [0, 1] to logits. A module is asked in evaluation
                mode; every submodule gets its mode back.
            images: of shape (image, channel, height, width), floating-point in [0, 1] or uint8, a tensor or an array;
                they are not changed. Or a DataLoader or dataset of images and labels, which is read into memory.
            labels: their classes, one each or as one-hot rows.
            norm: a threat, or the name of its norm.
            epsilon: radius in units of the pixel range; without one where ``norm`` is a threat.
            criterion: when an output is a success.
            targets: of a targeted attack: a class for each image, one for all, or ``least_likely``. What chooses it is
                left out of the trace's forward passes. An image that is of its target class is returned as it is.
            rng: the only source of randomness; by default image i draws as index i of seed 0.
            batch_size: images that the classifier is shown at a time, at most; by default all.

        Raises:
            RequestError: an unknown norm or criterion, no such radius, a norm or criterion that this attack does not
                fit, images, labels or targets that are none, a model that gives no logits for them, or a loss that is
                not one number per image.
        """
        # It makes a module of torch's, and attacks are named and checked without torch.
        from robustbench_bcos.core.adapted import Adapted, in_evaluation_mode

        with in_evaluation_mode(classifier):
            if norm is None or isinstance(labels, str | Threat):
                raise RequestError(
                    "norm is missing, or stands where labels do: give images, labels, norm and epsilon, or norm by its "
                    "name beside a DataLoader, norm='l2'"
                )
            images, labels = read_pairs(images, labels, rgb=False)
            labels = labels.to(images.device)
            threat = Threat.of(norm, epsilon)
            judged, goals = aim(criterion, targets, len(images))
            self.check(threat.geometry, judged)
            for caveat in self.caveats(threat.norm):
                warnings.warn(f"{caveat}: say so beside its numbers", stacklevel=2)
            size = max(1, batch_size or len(images))
            asked = _with_classes(Adapted(classifier), labels, goals)
            if goals is None:
                goals = judged.goals(in_parts(asked, size), images, labels)
            return self.solve(
                Problem(
                    classifier=asked,
                    images=images,
                    goals=goals.to(images.device),
                    threat=threat,
                    criterion=judged,
                    rng=rng or PerImageRng.of(0, range(len(images))),
                    batch_size=size,
                )
            )

    @final
    def solve(self, problem: Problem) -> AttackResult:
        """Search as the problem says, one batch after the other where the attack does not batch images itself."""
        return finished(self.walk(problem))

    @final
    def walk(self, problem: Problem, left: Frames = ()) -> Steps[AttackResult]:
        """:meth:`solve`, with halts on the way.

        Args:
            problem: what is asked.
            left: the frames of a halt of this attack on the same problem, which it goes on from.
        """
        if self.refills or len(problem.images) <= problem.batch_size:
            return (yield from self._walk(problem, left))
        mine, inner = split(left)
        found = AttackResult.of(mine) if mine else None
        first = 0 if found is None else len(found.adversarials)
        total = len(problem.images)
        for start in range(first, total, problem.batch_size):
            part = torch.arange(start, min(start + problem.batch_size, total), device=problem.images.device)
            steps = self._walk(problem.select(part), inner if start == first else ())
            size = len(part) / total
            more = yield from within({} if found is None else found.frame, steps, before=start / total, part=size)
            found = more if found is None else _joined([found, more])
        assert found is not None
        return found

    def _walk(self, problem: Problem, left: Frames) -> Steps[AttackResult]:
        """The search of images that it batches itself; by default without halts."""
        yield from ()
        return self._search(problem)

    @abstractmethod
    def _search(self, problem: Problem) -> AttackResult:
        """Propose an image within the threat for each image of the problem."""

    def check(self, norm: AbstractNorm, criterion: AbstractCriterion) -> None:  # noqa: B027 (most attacks serve all)
        """Refuse a norm or a criterion that this attack does not serve, or a machine that lacks what it needs.

        Raises:
            RequestError: with the remedy.
        """

    @property
    @abstractmethod
    def passes(self) -> int:
        """Forward and backward passes of one image that stays robust to the end."""

    @property
    def effort(self) -> int:
        """Sorts attacks that differ in effort alone; a larger one may take over what a smaller one found."""
        return 0

    @property
    def inherits(self) -> bool:
        """Whether an adversarial example of a weaker version serves: not where the last or best iterate counts."""
        return True

    def extends(self, other: "AbstractAttack") -> bool:
        """Whether the other one is this search, or the beginning of it."""
        return self == other

    def stronger(self) -> "AbstractAttack":
        """A longer search, which evidence runs to see whether this one was too short."""
        return self

    def at_full_length(self, fewest_steps: int) -> "AbstractAttack":
        """The attack with enough steps to cross the whole pixel box."""
        return self

    def in_full(self) -> "AbstractAttack":
        """The attack without early stopping, which returns its strongest iterate: what is pictured and explained."""
        return self

    @property
    def for_maps(self) -> "AbstractAttack":
        """The attack in full, begun where the problem says and once more at random, for each of its restarts.

        A clean image is no start: no map is as near to its own as itself, so that its gradient is 0. From a random one
        many searches for the farthest map end at a near one; those from an adversarial example seldom do.
        """
        return self.in_full()

    @property
    def at_any_step_size(self) -> "AbstractAttack":
        """The attack without options that suit one epsilon alone, such as a step size."""
        return self

    def with_loss(self, auto: str) -> "AbstractAttack":
        """The attack with ``auto`` replaced by the model's own loss."""
        if getattr(self, "loss", "") != "auto":
            return self
        return replace(self, loss=auto)  # type: ignore[call-arg] # of those that have a loss, which the base has not

    def left_out(self, classes: int) -> Mapping[str, str]:
        """Parts of the attack that this machine or this model cannot run, each with the reason."""
        return {}

    def lacks(self, norm: str) -> Mapping[str, str]:
        """Parts of the published attack that are missing under a norm, each with the reason.

        A number under such an attack must not be quoted under the attack's name, even if all checks hold.
        """
        return {}

    @final
    def caveats(self, norm: str) -> list[str]:
        """What it lacks under a norm, in words."""
        name = getattr(self, "name", type(self).__name__)
        return [f"{name} goes without {part} ({why})" for part, why in self.lacks(norm).items()]

    def reported(self, threat: Threat) -> dict[str, Any]:
        """What its options amount to under a threat, by column."""
        return self.options

    @property
    def options(self) -> dict[str, Any]:
        """Its options by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def unusual(self) -> dict[str, Any]:
        """Options that differ from their defaults, as JSON."""
        usual = {field.name: field.default for field in fields(self)}
        usual |= {field.name: field.default_factory() for field in fields(self) if callable(field.default_factory)}
        return {option: value for option, value in self.to_json().items() if value != usual[option]}

    @property
    def key(self) -> str:
        """The attack and its options as text."""
        return " ".join([self.name, *(f"{option}={value}" for option, value in self.to_json().items())])

    def to_json(self) -> dict[str, Any]:
        """Its options as JSON takes them: losses by name, quantities as they were written.

        Raises:
            RequestError: its loss has no name.
        """
        named = {option: loss_name(value) if callable(value) else value for option, value in self.options.items()}
        return {option: str(value) if isinstance(value, Quantity) else value for option, value in named.items()}


@dataclass(frozen=True, kw_only=True)
class LongAttack(AbstractAttack):
    """An attack that may take long, and halts on the way."""

    @final
    def _search(self, problem: Problem) -> AttackResult:
        return finished(self._walk(problem, ()))

    @abstractmethod
    def _walk(self, problem: Problem, left: Frames) -> Steps[AttackResult]:
        """Propose an image within the threat for each image of the problem, resuming an interrupted search."""


def require_known(norm: AbstractNorm, known: Collection[str], what: str) -> None:
    """Refuse a norm that an attack does not support.

    Raises:
        RequestError: naming both.
    """
    if norm.name not in known:
        raise RequestError(f"{what} knows the norms {', '.join(known)} and not {norm.name}: choose another attack")


def require_labels(criterion: AbstractCriterion, what: str) -> None:
    """Refuse a criterion with other goals than labels, for an attack that aims at wrong classes of its own choice.

    Raises:
        RequestError: naming both.
    """
    if not criterion.goals_are_labels:
        raise RequestError(f"{what} chooses its own targets and cannot pursue {criterion}: choose another attack")


def _with_classes(classifier: Classifier, *classes: Labels | None) -> Classifier:
    """The classifier, which is refused where it has not all of these classes."""
    largest = max((int(some.max()) for some in classes if some is not None and len(some)), default=-1)

    def asked(images: Images) -> Logits:
        logits = classifier(images)
        if logits.shape[1] <= largest:
            raise RequestError(
                f"labels and targets must be classes from 0 to {logits.shape[1] - 1} for this model, got {largest}"
            )
        return logits

    return asked


def _joined(parts: Sequence[AttackResult]) -> AttackResult:
    traces = zip(*(part.trace for part in parts), strict=True)
    return AttackResult(torch.cat([part.adversarials for part in parts]), Trace(*(torch.cat(part) for part in traces)))
