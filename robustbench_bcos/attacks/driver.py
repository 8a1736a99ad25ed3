"""One loop for every iterative attack: restarts, batches that refill, which iterate is returned, traces.

An attack says where an image's next iterate is (:meth:`IterativeAttack.step`); everything else about the search is
decided here, once.
"""

import itertools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from time import monotonic
from typing import Any, get_args

from robustbench_bcos.attacks import halts
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, LongAttack, Problem, Trace
from robustbench_bcos.attacks.gradients import usable_gradient
from robustbench_bcos.attacks.halts import Frame, Frames, Halt, Steps, split
from robustbench_bcos.attacks.loss import Loss
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.selection import Select, Start
from robustbench_bcos.core.types import Counts, Flags, Goals, Images, PerImage, Tensor

RELEASED_EVERY = {"cpu": 1}
"""Steps from one release of finished images to the next, by kind of device."""

RELEASED_EVERY_ON_A_GPU = 4
"""On a GPU the answer has to be waited for. Successes stay in the batch meanwhile, which costs less than waiting; they
are neither updated nor counted."""


@dataclass
class Rows:
    """Tensors with a row for each image of the batch."""

    def keep(self, staying: Flags) -> None:
        """Drop the other images."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Rows):
                value.keep(staying)
            else:
                setattr(self, field.name, value[staying])

    def join(self, others: "Rows") -> None:
        """Append other images."""
        for field in fields(self):
            value, other = getattr(self, field.name), getattr(others, field.name)
            if isinstance(value, Rows):
                value.join(other)
            else:
                setattr(self, field.name, torch.cat([value, other]))

    def frame(self) -> dict[str, Tensor]:
        """All tensors by name; those of rows within it have its name and a dot before theirs."""
        found: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Rows):
                found |= {f"{field.name}.{name}": tensor for name, tensor in value.frame().items()}
            else:
                found[field.name] = value
        return found

    def restore(self, frame: Frame) -> None:
        """Take over tensors of :meth:`frame`, for the same images."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Rows):
                value.restore(_below(field.name, frame))
            elif field.name in frame:
                setattr(self, field.name, frame[field.name].clone())


@dataclass(kw_only=True)
class State(Rows):
    """The images that are searched together, each at a step of its own."""

    position: Tensor
    """Which images of the problem they are."""
    images: Images
    goals: Goals
    iterates: Images
    steps: Counts
    """Taken so far."""
    proposals: Images
    """The iterates selected so far."""
    succeeded: Flags
    """Whether the proposal is a success."""
    best: PerImage
    """Largest loss so far, in float64."""
    dismissed: Flags
    """Whether the attack has given it up."""
    memory: Rows
    """What the attack itself remembers of each image."""


class Evaluation:
    """What the classifier says of the iterates; losses and gradients are computed when they are first asked for."""

    def __init__(self, search: "Search", state: State, outputs: Tensor, leaf: Images) -> None:
        self._search = search
        self._state = state
        self._outputs = outputs
        self._leaf = leaf
        self.leaving = torch.zeros_like(state.succeeded)
        self.success: Flags = search.problem.criterion.success(outputs.detach(), state.goals)

    @cached_property
    def losses(self) -> PerImage:
        """What is ascended, in float64: in float32 a saturated loss is a plateau, on which no iterate is better."""
        outputs = self._outputs.detach().double()
        return self._search.objective(outputs, self._state.goals, self._state.position).double()

    @cached_property
    def gradients(self) -> Images:
        """Of the loss by each iterate; 0 where it is NaN or infinite. Degenerate ones are noted in the trace."""
        search, state = self._search, self._state

        def loss(outputs: Tensor, goals: Tensor) -> PerImage:
            return search.objective(outputs, goals, state.position)

        gradient, degenerate = usable_gradient(loss, self._outputs, self._leaf, state.goals)
        search.trace.degenerate_gradient[state.position] |= degenerate & ~(self.success | self.leaving)
        return gradient


@dataclass(frozen=True, kw_only=True)
class IterativeAttack(LongAttack):
    """An attack that moves iterates step by step; ``steps`` + 1 of them are evaluated, the start included.

    Args:
        restarts: how often the search is run at most, each time on the images that are still robust.
    """

    refills = True

    restarts: int = 1

    @property
    def keeps_best(self) -> bool:
        """Whether the best iterate is returned where none succeeds, and not the last."""
        return False

    @property
    def begins(self) -> Start:
        """Where the first restart begins; further ones begin at random, since they would repeat it otherwise."""
        return "random"

    @property
    def selects(self) -> Select:
        """Which iterate is returned."""
        return "first_success"

    @property
    @abstractmethod
    def moves(self) -> int:
        """Steps of a restart."""

    def objective(self, problem: Problem) -> Loss:
        """What is ascended: the criterion's own order of outputs, where the attack has no loss."""
        return problem.criterion.nearness

    @abstractmethod
    def step(self, problem: Problem, state: State, found: Evaluation) -> Images:
        """The next iterates, given what the classifier says of the present ones."""

    def dismisses(self, state: State, found: Evaluation) -> Flags:
        """Which images are given up before they have taken all steps; by default none."""
        return torch.zeros_like(state.succeeded)

    def remember(self, problem: Problem, images: Images, sources: "Sequence[torch.Generator]") -> Rows:
        """What the attack remembers of images whose search begins.

        Args:
            problem: of which they are a part.
            images: those that enter the batch.
            sources: one for each, from which their start was drawn.
        """
        return Rows()

    def random_start(self, problem: Problem, images: Images, sources: "Sequence[torch.Generator]") -> Images:
        """Where a random restart begins: a draw from the ball, clipped to the pixel box."""
        draws = problem.threat.sample(images.shape[1:], sources)
        return (images + draws.to(images)).clamp(0, 1)

    def reported(self, threat: Threat) -> dict[str, Any]:
        """Its options, where it begins and which iterate it returns."""
        return self.options | {"start": self.begins, "select": self.selects}

    def _walk(self, problem: Problem, left: Frames) -> Steps[AttackResult]:
        search = Search(self, problem, left)
        yield from search.run()
        return search.result


@dataclass(frozen=True, kw_only=True)
class GradientAttack(IterativeAttack):
    """An iterative attack that follows gradients.

    Args:
        steps: gradient steps of a restart.
        select: which iterate is returned. ``first_success``: the first that is a success, after which an image leaves
            the batch; ``last``: the final one; ``best_loss``: the one of largest loss, as MadryLab reports.
    """

    steps: int = 100
    select: Select = "first_success"

    @property
    def moves(self) -> int:
        """The steps."""
        return self.steps

    @property
    def selects(self) -> Select:
        """As asked for."""
        return self.select

    @property
    def passes(self) -> int:
        """A forward pass for each iterate, a backward pass for all but the last."""
        return self.restarts * (2 * self.steps + 1)

    @property
    def effort(self) -> int:
        """The steps."""
        return self.steps

    @property
    def inherits(self) -> bool:
        """Only where any success counts: the last iterate, or the best, is another one for every number of steps."""
        return self.select == "first_success"

    def extends(self, other: AbstractAttack) -> bool:
        """The same search with as many steps or fewer."""
        same = isinstance(other, type(self)) and replace(other, steps=self.steps) == self
        return same and other.effort <= self.steps

    @property
    def for_maps(self) -> "GradientAttack":
        """With a restart more."""
        return replace(self.in_full(), restarts=self.restarts + 1)

    def in_full(self) -> "GradientAttack":
        """All steps, and of all iterates the one of largest loss."""
        return replace(self, select="best_loss")


Objective = Callable[[Tensor, Goals, Tensor], PerImage]
"""From outputs, goals and positions in the problem, to one number per image."""


class Search:
    """The state of one call: what is proposed so far for each image of the problem.

    Args:
        attack: which says where an iterate goes.
        problem: what is asked.
        left: the frame of a halt that it goes on from.
    """

    def __init__(self, attack: IterativeAttack, problem: Problem, left: Frames = ()) -> None:
        images = problem.images
        self.attack = attack
        self.problem = problem
        self.trace = Trace.blank(images)
        self.adversarials = images.clone()
        self.succeeded = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.best = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
        self.objective: Objective = _without_positions(attack.objective(problem))
        self._released_every = RELEASED_EVERY.get(images.device.type, RELEASED_EVERY_ON_A_GPU)
        self._tracks_best = attack.selects == "best_loss" or attack.keeps_best
        self._left, _ = split(left)
        if self._left:
            self.restore(self._left)
        self._halted = monotonic()

    def restore(self, frame: Frame) -> None:
        """Take over what :attr:`frame` holds."""
        self.adversarials, self.trace = AttackResult.of(frame)
        self.succeeded, self.best = frame["succeeded"].clone(), frame["best"].clone()

    @property
    def frame(self) -> dict[str, Tensor]:
        """What has been found, by name."""
        return {"succeeded": self.succeeded, "best": self.best, **self.result.frame}

    def include(self, copied: "Search", positions: Tensor) -> None:
        """Of several searches of some of the images, take over the first success, or else the iterate of largest loss.

        Args:
            copied: a search of these images repeated so many times over.
            positions: of the images in this one.
        """
        by_copies = (-1, len(positions))
        order = torch.where(copied.succeeded, torch.inf, copied.best).view(by_copies)
        largest, chosen = order.max(dim=0)
        better = largest > self.best[positions]
        taken = (chosen * len(positions) + torch.arange(len(positions), device=positions.device))[better]
        self.adversarials[positions[better]] = copied.adversarials[taken]
        self.best[positions[better]] = copied.best[taken]
        self.succeeded[positions] |= copied.succeeded.view(by_copies).any(dim=0)
        trace = Trace(
            degenerate_gradient=copied.trace.degenerate_gradient.view(by_copies).any(dim=0),
            forward_passes=copied.trace.forward_passes.view(by_copies).sum(dim=0),
            backward_passes=copied.trace.backward_passes.view(by_copies).sum(dim=0),
        )
        self.trace.include(trace, positions)

    @property
    def result(self) -> AttackResult:
        """What has been found."""
        return AttackResult(self.adversarials, self.trace)

    def run(self, offset: int = 0) -> Steps[None]:
        """All restarts, each on the images that are still robust.

        Args:
            offset: number of the first restart for the random streams.
        """
        for number in range(offset, offset + self.attack.restarts):
            left = self._left
            if left and number < int(left["restart"]):
                continue
            remaining = left["remaining"] if left else (~self.succeeded).nonzero().squeeze(1)
            if len(remaining) == 0:
                return
            sources = self.problem.rng(number)
            random = number > offset or (self.attack.begins == "random" and self.problem.starts is None)
            yield from self._restart(number, remaining, [sources[image] for image in remaining.tolist()], random=random)

    def _restart(
        self, number: int, remaining: Tensor, sources: "Sequence[torch.Generator]", *, random: bool
    ) -> Steps[None]:
        left, self._left = self._left, {}
        if left:
            state = self._restored(left, remaining, sources, random=random)
            first, entered, *later = left["turns"].tolist()
            ends = set(later)
        else:
            first, entered = 0, min(self.problem.batch_size, len(remaining))
            state = self._enter(remaining[:entered], sources[:entered], random=random)
            # Iterations after which some image has taken all its steps: counted here, without a GPU synchronisation.
            ends = {self.attack.moves}
        for turn in itertools.count(first):
            if monotonic() - self._halted >= halts.SECONDS:
                yield self._halt(state, number, remaining, [turn, entered, *sorted(ends)])
                self._halted = monotonic()
            # Gradients are enabled per iteration, because the generator gives control back to its caller in between.
            with torch.set_grad_enabled(self.attack.uses_gradients):
                finished = state.steps == self.attack.moves
                releases = turn in ends or turn % self._released_every == 0
                found = self._evaluate(state, differentiate=not (releases and bool(finished.all())))
                leaving = self._select(state, found, finished)
                if not (releases and leaving.all()):
                    self._step(state, found, leaving)
                if not (releases and leaving.any()):
                    continue
                self._release(state, leaving)
                if entered < len(remaining):
                    part = slice(entered, entered + self.problem.batch_size - len(state.position))
                    state.join(self._enter(remaining[part], sources[part], random=random))
                    entered = part.stop
                    ends.add(turn + 1 + self.attack.moves)
                if len(state.position) == 0:
                    return

    def _halt(self, state: State, number: int, remaining: Tensor, turns: Sequence[int]) -> Halt:
        searched = {name: tensor for name, tensor in state.frame().items() if name not in ("images", "goals")}
        passes = (self.trace.forward_passes + self.trace.backward_passes)[~self.succeeded]
        return Halt(
            frames=(
                {
                    "restart": torch.tensor(number),
                    "turns": torch.tensor(turns),
                    "remaining": remaining,
                    **self.frame,
                    **{f"state.{name}": tensor for name, tensor in searched.items()},
                },
            ),
            done=int(self.succeeded.sum()),
            share=min(1.0, float(passes.float().mean()) / self.attack.passes) if len(passes) else 1.0,
        )

    def _restored(self, left: Frame, remaining: Tensor, sources: "Sequence[torch.Generator]", *, random: bool) -> State:
        """The batch of an interrupted search."""
        searched = _below("state", left)
        places = {position: place for place, position in enumerate(remaining.tolist())}
        chosen = [sources[places[position]] for position in searched["position"].tolist()]
        state = self._enter(searched["position"], chosen, random=random)
        state.restore(searched)
        return state

    def _enter(self, positions: Tensor, sources: "Sequence[torch.Generator]", *, random: bool) -> State:
        images = self.problem.images[positions]
        begun = images if self.problem.starts is None else self.problem.starts[positions]
        starts = self.attack.random_start(self.problem, images, sources) if random else begun
        return State(
            position=positions,
            images=images,
            goals=self.problem.goals[positions],
            iterates=starts,
            steps=torch.zeros_like(positions),
            proposals=starts,
            succeeded=torch.zeros_like(positions, dtype=torch.bool),
            best=torch.full_like(positions, -torch.inf, dtype=torch.float64),
            dismissed=torch.zeros_like(positions, dtype=torch.bool),
            memory=self.attack.remember(self.problem, images, sources),
        )

    def _evaluate(self, state: State, *, differentiate: bool) -> Evaluation:
        differentiate = differentiate and self.attack.uses_gradients
        with torch.set_grad_enabled(differentiate):
            leaf = state.iterates.detach().requires_grad_(differentiate)
            outputs = self.problem.classifier(leaf)
        state.iterates = leaf.detach()
        # Successes that have not been released yet are not counted any more.
        self.trace.forward_passes[state.position] += ~self._done(state)
        return Evaluation(self, state, outputs, leaf)

    def _done(self, state: State) -> Flags:
        return state.dismissed | state.succeeded if self.attack.selects == "first_success" else state.dismissed

    def _select(self, state: State, found: Evaluation, finished: Flags) -> Flags:
        """Keep the iterates that are to be returned; gives a mask of the images whose search is over."""
        done = self._done(state)
        given_up = self.attack.dismisses(state, found) & ~done & ~found.success
        finished = finished | given_up
        if self._tracks_best:
            better = (found.losses > state.best) & ~done
            state.best = torch.where(better, found.losses, state.best)
        if self.attack.selects == "best_loss":
            chosen = better
        elif self.attack.selects == "last":
            chosen = finished
        else:
            chosen = ((better if self.attack.keeps_best else finished) | found.success) & ~done
        state.proposals = torch.where(chosen[:, None, None, None], state.iterates, state.proposals)
        state.succeeded = torch.where(chosen, found.success, state.succeeded)
        state.dismissed |= given_up
        return finished | self._done(state)

    def _step(self, state: State, found: Evaluation, leaving: Flags) -> None:
        if self.attack.uses_gradients:
            # Images that leave still take part in this backward pass. They are not charged for it, so that counts do
            # not depend on batching.
            self.trace.backward_passes[state.position] += ~leaving
        found.leaving = leaving
        state.iterates = self.attack.step(self.problem, state, found)
        state.steps = state.steps + 1

    def _release(self, state: State, leaving: Flags) -> None:
        """Store the results of images whose search is over, and drop them from the batch."""
        written = leaving
        if self._tracks_best:
            # A restart without success counts only where its loss is larger than what was found before.
            written = leaving & (state.succeeded | (state.best > self.best[state.position]))
            ended = state.position[leaving]
            self.best[ended] = torch.maximum(self.best[ended], state.best[leaving])
        positions = state.position[written]
        self.adversarials[positions] = state.proposals[written]
        self.succeeded[positions] = state.succeeded[written]
        state.keep(~leaving)


def _below(name: str, frame: Frame) -> dict[str, Tensor]:
    """Entries named ``NAME.rest``, as ``rest``."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in frame.items() if key.startswith(f"{name}.")}


def _without_positions(loss: Loss) -> Objective:
    def objective(outputs: Tensor, goals: Tensor, positions: Tensor) -> PerImage:
        return loss(outputs, goals)

    return objective


def check_search(*, moves: int, restarts: int, start: Start = "image", select: Select = "last") -> None:
    """Refuse fewer than one step or restart, and an unknown start or selection.

    Raises:
        ValueError: steps or restarts below 1, or no such start or selection.
    """
    if moves < 1 or restarts < 1:
        raise ValueError(f"expected steps and restarts of at least 1, got {moves} and {restarts}")
    if start not in get_args(Start) or select not in get_args(Select):
        raise ValueError(
            f"expected start in {get_args(Start)} and select in {get_args(Select)}, got {start!r} and {select!r}"
        )
