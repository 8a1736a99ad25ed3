"""Searches that are run several times: where each run begins, and on which images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from robustbench_bcos.attacks.attack import AttackResult, Trace
from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.selection import Count, Start
from robustbench_bcos.core.types import Classifier, Flags, Images, Labels

Draw = Callable[[Sequence[torch.Generator]], Images]
"""One delta per generator, to begin from."""


@runtime_checkable
class Search(Protocol):
    """The state of an attack: what is proposed so far for each image."""

    images: Images
    candidates: Images
    fallen: Flags
    trace: Trace

    def run(self, active: Tensor, starts: Images) -> None:
        """Search once for the active images, from these starts; note what fell."""
        ...


class SearchState:
    """What every search knows in one call, and what is proposed so far: the images themselves, until one falls."""

    def __init__(self, classifier: Classifier, images: Images, labels: Labels, ball: AbstractNorm) -> None:
        self.classifier = classifier
        self.images = images
        self.labels = labels
        self.ball = ball
        self.candidates = images.clone()
        self.fallen = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.trace = Trace.blank(images)


@dataclass
class ActiveState:
    """Where a restart stands, for each image that is still attacked: every field has a row for each."""

    def keep(self, staying: Flags) -> None:
        """Forget the others."""
        if not staying.all():
            for field in fields(self):
                setattr(self, field.name, getattr(self, field.name)[staying])

    def add(self, others: "ActiveState") -> None:
        """Let others join, behind those that are there."""
        for field in fields(self):
            setattr(self, field.name, torch.cat([getattr(self, field.name), getattr(others, field.name)]))


def check_search(steps: int, restarts: int, start: Start, count: Count) -> None:
    """Refuse settings that no search has.

    Raises:
        ValueError: steps or restarts below 1, or no such start or count.
    """
    if steps < 1 or restarts < 1:
        raise ValueError(f"expected steps and restarts of at least 1, got {steps} and {restarts}")
    if start not in get_args(Start) or count not in get_args(Count):
        raise ValueError(f"expected start in {get_args(Start)} and count in {get_args(Count)}, got {start}, {count}")


def turns(
    fallen: Flags, *, restarts: int, generator: PerImageRng | None, first: int = 0
) -> Iterator[tuple[int, Tensor, list[torch.Generator]]]:
    """For each restart that is needed: its number, the images that still stand, and sources for the whole batch.

    Args:
        fallen: what has fallen; noted here by the search, from turn to turn.
        restarts: how many turns at most.
        generator: the source of randomness; without one, image i draws as index i of seed 0.
        first: what the first restart is to the generator.
    """
    generator = generator or PerImageRng.of(0, range(len(fallen)))
    for restart in range(restarts):
        active = (~fallen).nonzero().squeeze(1)
        if len(active) == 0:
            return
        yield restart, active, generator(first + restart)


def search_repeatedly(
    search: Search, *, restarts: int, start: Start, draw: Draw, generator: PerImageRng | None, first: int = 0
) -> AttackResult:
    """Run a search up to so many times, each time on what still stands.

    Args:
        search: what is run.
        restarts: how often at most.
        start: where the first run begins; further ones begin at random, since they would repeat it otherwise.
        draw: where a random start comes from.
        generator: as for :func:`turns`.
        first: as for :func:`turns`.
    """
    for restart, active, sources in turns(search.fallen, restarts=restarts, generator=generator, first=first):
        starts = search.images[active]
        if restart > 0 or start == "random":
            noise = draw([sources[image] for image in active.tolist()])
            starts = (starts + noise.to(starts)).clamp(0, 1)
        search.run(active, starts)
    return AttackResult(search.candidates, search.trace)
