"""How many images are worked on together: as many as fit into memory, and fewer once they did not.

The size follows from what one image keeps for its backward pass. The part of memory that a batch may fill depends on
the machine alone and not on what else runs there, so that a run which is continued meets the same batches.
"""

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

from robustbench_bcos.core.devices import is_out_of_memory
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Images

MOST = 256
"""Images of a batch, however small they are: more make no batch faster, and lose more to an interruption."""

SHARE = 0.25
"""Part of a machine's memory that a batch may keep for its backward pass. The pass itself needs as much at times, and
evidence, explanations and other processes want theirs."""

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where a container says what it may use."""

UNKNOWN_MEMORY = 4 << 30
"""Bytes supposed where the system does not tell."""


@dataclass
class BatchSize:
    """Images of one model that are worked on together.

    Attributes:
        images: current batch size. Halved after every out-of-memory error; never grows again.
    """

    images: int

    @classmethod
    def of(cls, model: nn.Module, example: Images, asked: int | None) -> "BatchSize":
        """What was asked for, or else the largest power of two up to 256 that fits.

        Args:
            model: what is attacked, on its device.
            example: one image, (1, 3, height, width), on the same device.
            asked: the number the user wants; it is reduced too, when memory runs out.
        """
        if asked is not None:
            return cls(asked)
        fitting = int(SHARE * memory_of(example.device)) // max(1, bytes_for_backward(model, example))
        return cls(min(MOST, 1 << max(0, fitting.bit_length() - 1)))

    def over(self, count: int, batches: int = 1) -> Iterator["Attempt"]:
        """Consecutive parts of ``count`` images, each to be worked on inside a ``with``.

        A part that runs out of memory comes again as smaller ones, and all that follow are as small.

        Args:
            count: images in all.
            batches: in a part, for work that refills its batches.
        """
        start = 0
        while start < count:
            attempt = Attempt(start, min(start + batches * self.images, count))
            yield attempt
            if attempt.failed:
                self._halve(min(self.images, attempt.stop - start))
            else:
                start = attempt.stop

    def _halve(self, failed: int) -> None:
        if failed == 1:
            raise RequestError(
                "memory runs out with a single image: free some, choose a smaller model or smaller images, or another "
                "--device"
            )
        self.images = failed // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Attempt:
    """A part of a subset; its ``with`` suppresses out-of-memory errors, and no others."""

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.failed = False

    def __enter__(self) -> slice:
        return slice(self.start, self.stop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.failed = error is not None and is_out_of_memory(error)
        return self.failed


def bytes_for_backward(model: nn.Module, example: Images) -> int:
    """Bytes that a forward pass keeps for its backward pass, without the model's own parameters and buffers.

    Where a model stops its gradients nothing is kept, and any batch fits.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(example.detach().clone().requires_grad_())
    return sum(size for address, size in kept.items() if address not in own)


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has in all, or a container may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):
        return UNKNOWN_MEMORY
    try:
        return min(memory, int(CGROUP_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return memory
