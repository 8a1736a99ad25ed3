"""Single-precision networks computed in double precision, without a second copy of their weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map


class InDouble(TorchFunctionMode):
    """A context in which every function gets its tensors, weights too, in double precision.

    A backward pass computes weights in double precision once more, so that none is kept for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rooms = _Rooms()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func.__name__ in ("__get__", "__set__"):  # Of shapes and the like.
            return func(*args, **kwargs)
        if (view := _view(func, args, kwargs)) is not None:
            return view
        call = _Call(self.rooms)
        args, kwargs = tree_map(call.exact, (args, kwargs))
        if not (call.made and torch.is_grad_enabled()):
            return func(*args, **kwargs)
        with saved_tensors_hooks(call.pack, _unpack):
            return func(*args, **kwargs)


def _view(func: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
    """Views of single precision, which may wait until they are computed with; else ``None``."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    # What ends with an underscore writes into what it is given.
    writes = func.__name__.endswith("_") and func.__name__ != "__getitem__"
    if writes or not tensors or any(map(_is_computed, tensors)):
        return None
    made = func(*args, **kwargs)
    memory = {_memory(tensor) for tensor in tensors}
    leaves = tree_leaves(made)
    return made if all(isinstance(leaf, Tensor) and _memory(leaf) in memory for leaf in leaves) else None


def _is_computed(tensor: Tensor) -> bool:
    return tensor.requires_grad or tensor.dtype != torch.float32


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Rooms:
    """Memory that doubles of weights take in turns: for the system to give new memory takes longer than to fill it."""

    def __init__(self) -> None:
        self.rooms: list[torch.UntypedStorage] = []

    def double(self, value: Tensor) -> Tensor:
        """The tensor in double precision, in memory that no other tensor has any more."""
        made = torch.empty_like(value, dtype=torch.float64, device="meta")
        size = made.untyped_storage().nbytes()
        free = [room for room in self.rooms if torch._C._storage_Use_Count(room._cdata) == 1]
        fitting = [room for room in free if room.nbytes() >= size and room.device == value.device]
        if fitting:
            room = min(fitting, key=torch.UntypedStorage.nbytes)
        else:
            room = torch.UntypedStorage(size, device=value.device)
            # Smaller ones make way.
            self.rooms = [other for other in self.rooms if other not in free] + [room]
        return value.new_empty(0, dtype=torch.float64).set_(room, 0, made.size(), made.stride()).copy_(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Again:
    """What to make of a tensor in single precision, to have a view of its copy in double precision again."""

    rooms: _Rooms
    tensor: Tensor
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Call:
    """One call of a function, and what was made of its constants; memory is not used again before it is over."""

    def __init__(self, rooms: _Rooms) -> None:
        self.rooms = rooms
        self.made: dict[int, Tensor] = {}

    def exact(self, value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == torch.float64:
            return value
        with torch._C.DisableTorchFunction():
            if value.requires_grad:
                return value.double()
            exact = self.rooms.double(value)
            self.made[exact.data_ptr()] = value
            return exact

    def pack(self, saved: Tensor) -> Tensor | _Again:
        origin = self.made.get(_memory(saved))
        if origin is None:
            return saved
        return _Again(
            rooms=self.rooms,
            tensor=origin,
            size=saved.size(),
            stride=saved.stride(),
            offset=int(saved.storage_offset()),
        )


def _unpack(packed: Tensor | _Again) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    return packed.rooms.double(packed.tensor).as_strided(packed.size, packed.stride, packed.offset)
