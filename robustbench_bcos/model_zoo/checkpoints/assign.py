"""Assigning a checkpoint's tensors to a network that has exactly those names and shapes."""

from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.checkpoints.layouts import Tensors

NAMED_TENSORS = 3
"""A message names at most this many missing or surplus tensors."""


class MisfitError(RequestError):
    """Tensors are not those of the architecture; ``finding`` is the message without its remedy."""

    def __init__(self, finding: str) -> None:
        self.finding = finding
        super().__init__(f"{finding}: choose the architecture they were made with")


def assign_weights(network: nn.Module, tensors: Tensors, origin: object) -> None:
    """Copy tensors into a network that has exactly those names and shapes.

    Half and double precision are converted to the network's.

    Raises:
        RequestError: a tensor is missing, is not in the network, has another shape, or holds whole numbers in place
            of real ones.
    """
    state = network.state_dict()
    missing, surplus = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or surplus:
        parts = [_listed("missing", missing, state), _listed("surplus", surplus, tensors)]
        raise MisfitError(f"weights {origin} do not fit the architecture: {'; '.join(part for part in parts if part)}")
    differing = [name for name in sorted(tensors) if tensors[name].shape != state[name].shape]
    if differing:
        name, more = differing[0], f" ({len(differing) - 1} more differ)" if len(differing) > 1 else ""
        raise MisfitError(
            f"weights {origin}: tensor {name!r} has shape {tuple(tensors[name].shape)} and the architecture's has "
            f"{tuple(state[name].shape)}{more}"
        )
    for name, tensor in tensors.items():
        if not _converts(tensor, state[name]):
            raise RequestError(
                f"weights {origin}: tensor {name!r} is of type {tensor.dtype} and the architecture's of "
                f"{state[name].dtype}: save the weights as floating-point numbers, not quantised"
            )
    network.load_state_dict(tensors)


def _converts(given: Tensor, taken: Tensor) -> bool:
    """Whether types are compatible: counts may be saved as real numbers that are whole, but weights not as integers."""
    if taken.is_floating_point():
        return given.is_floating_point()
    return not given.is_floating_point() or bool((given == given.round()).all())


def _listed(kind: str, names: list[str], shapes: Tensors) -> str:
    more = f" and {len(names) - NAMED_TENSORS} more" if len(names) > NAMED_TENSORS else ""
    listed = ", ".join(f"{name} {tuple(shapes[name].shape)}" for name in names[:NAMED_TENSORS])
    return f"{kind} {listed}{more}" if names else ""
