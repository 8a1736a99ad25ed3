"""Long attacks are written down on their way, so that an interruption at any moment loses seconds.

What is written is the last halt of a search: all its tensors, from which it goes on with the bits of a search that was
never interrupted. The same images in batches of the same size are needed for that; any others begin anew.
"""

from collections.abc import Generator
from time import monotonic
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from robustbench_bcos.attacks.halts import Frames, Halt, Steps
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.rows import TimingRow, UnfinishedRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.errors import RequestError

T = TypeVar("T")

SECONDS = 10.0
"""Between two writings, at least."""

SHARE = 0.05
"""Of the time at most that writing may take: what is large is written less often."""

PIECE = 1 << 28
"""Bytes of a piece; SQLite takes no more than four times as much at once."""


class Unfinished:
    """What is written of one cell's work while it is under way."""

    def __init__(self, known: Store, cell: Cell, work: str, *, batch_size: int) -> None:
        self.known = known
        self.cell = cell
        self.work = work
        self.batch_size = batch_size
        self.began = monotonic()
        """When the time began that no row counts yet."""
        self._pause = SECONDS
        self._pieces = len(known.select(UnfinishedRow, cell=cell.key, work=work))

    def left(self, target: AttackTarget) -> Frames:
        """The frames that an attack on these images was left with; none where it has to begin.

        Raises:
            RequestError: they are damaged.
        """
        rows = self.known.select(UnfinishedRow, cell=self.cell.key, work=self.work)
        if not rows or (rows[0].images, rows[0].batch_size) != (_named(target), self.batch_size):
            return ()
        try:
            return _unpacked(b"".join(row.state for row in rows[: rows[0].pieces]), target.images.device)
        except Exception as error:  # safetensors has no error that is documented.
            raise RequestError(
                f"{self.known.file} is damaged ({error}): remove the run folder, or restore it, or choose another --out"
            ) from None

    def watch(self, steps: Steps[T], target: AttackTarget) -> Generator[Progress, None, T]:
        """Carry out a search on these images; tell of every halt, and write some down."""
        while True:
            try:
                halt = next(steps)
            except StopIteration as end:
                found: T = end.value
                return found
            rows: tuple[Any, ...] = ()
            now = monotonic()
            if now - self.began >= self._pause:
                rows = (*self._rows(halt, target), self.timing(0))
                self.began = monotonic()
            robust = len(target.images) - halt.done
            yield Progress(
                cell=self.cell,
                images=0,
                rows=rows,
                under_way=halt.done + robust * halt.share,
                stage=f"{halt.stage}, {halt.done} of {len(target.images)} images broken".removeprefix(", "),
            )
            if rows:
                # The writing is done when the runner asks for more.
                self._pause = max(SECONDS, (monotonic() - now) / SHARE)

    def timing(self, images: int) -> TimingRow:
        """The time since the last such row."""
        return TimingRow(cell=self.cell.key, work=self.work, images=images, seconds=monotonic() - self.began)

    def done(self) -> list[UnfinishedRow]:
        """Rows that take the place of what was written, once the work itself is."""
        pieces, self._pieces = self._pieces, 0
        return [self._row(piece, 0, "", b"") for piece in range(pieces)]

    def _rows(self, halt: Halt, target: AttackTarget) -> list[UnfinishedRow]:
        state = _packed(halt.frames)
        cut = [state[start : start + PIECE] for start in range(0, len(state), PIECE)]
        self._pieces = max(self._pieces, len(cut))
        return [self._row(piece, len(cut), _named(target), content) for piece, content in enumerate(cut)]

    def _row(self, piece: int, pieces: int, images: str, state: bytes) -> UnfinishedRow:
        return UnfinishedRow(
            cell=self.cell.key,
            work=self.work,
            piece=piece,
            pieces=pieces,
            images=images,
            batch_size=self.batch_size,
            state=state,
        )


def _named(target: AttackTarget) -> str:
    return " ".join(map(str, target.rng.indices))


def _packed(frames: Frames) -> bytes:
    """Frames as bytes; each name has the number of its frame before it."""
    tensors = {f"{depth} {name}": tensor for depth, frame in enumerate(frames) for name, tensor in frame.items()}
    # Copies, because safetensors takes no two tensors that share their memory.
    return save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})


def _unpacked(state: bytes, device: torch.device) -> Frames:
    frames: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load(state).items():
        depth, _, name = key.partition(" ")
        frames.setdefault(int(depth), {})[name] = tensor.to(device)
    return tuple(frames.get(depth, {}) for depth in range(max(frames, default=-1) + 1))
