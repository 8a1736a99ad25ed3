"""Checkpoints of a search, so that a long one can report progress, be interrupted and be resumed.

A search is a generator. What it yields is a halt; what it returns is its result. A search that is begun again with the
frames of its last halt goes on there, with the bits of one that was never interrupted.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from robustbench_bcos.core.types import Tensor

T = TypeVar("T")

SECONDS = 1.0
"""Between two halts of a search, at least."""

Frame = Mapping[str, Tensor]
"""What one search needs to know to go on; valid until it does, because it changes tensors in place."""

Frames = tuple[Frame, ...]
"""Those of a search, of the part it is at, and of that part's part; none where it has to begin."""


@dataclass(frozen=True, kw_only=True)
class Halt:
    """A checkpoint of a search."""

    frames: Frames
    stage: str = ""
    """What is being done, in words."""
    done: int = 0
    """Images that need nothing more."""
    share: float = 0.0
    """Part of the passes that the others can take at most, which they have taken."""


Steps = Generator[Halt, None, T]
"""A search, and what it finds."""


def finished(steps: Steps[T]) -> T:
    """Carry out a search without stopping."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


def within(
    frame: Frame, steps: Steps[T], *, stage: str = "", done: int = 0, before: float = 0.0, part: float = 1.0
) -> Steps[T]:
    """Carry out a part of a search, whose halts become those of the whole.

    Args:
        frame: of the whole, while it is at this part.
        steps: the part.
        stage: of the whole.
        done: images that take no part in it.
        before: share of the passes that the parts before it have taken.
        part: its own share of the passes.
    """
    while True:
        try:
            halt = next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        yield replace(
            halt,
            frames=(frame, *halt.frames),
            stage=", ".join(filter(None, [stage, halt.stage])),
            done=done + halt.done,
            share=before + part * halt.share,
        )


def split(frames: Frames) -> tuple[dict[str, Any], Frames]:
    """A search's own frame, empty where it has to begin, and those of the part it is at."""
    return (dict(frames[0]), frames[1:]) if frames else ({}, ())
