"""Where tensors live. Importing this imports no torch."""

from importlib.util import find_spec

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.registry import unknown

EXAMPLES = ("auto", "cpu", "cuda", "cuda:1")

KINDS = ("auto", "cpu", "cuda", "hpu", "meta", "mps", "mtia", "xla", "xpu")
"""Kinds that people have; torch knows twenty. A package that adds another is called after it, as torch_npu is."""


def check_device(asked: str) -> None:
    """Refuse what is no device, wherever it runs.

    Raises:
        RequestError: there is no such kind.
    """
    kind, colon, number = asked.partition(":")
    known = kind in KINDS or (kind.isidentifier() and find_spec(f"torch_{kind}") is not None)
    if not known or (colon and not (number.isascii() and number.isdigit())):
        raise unknown("device", asked, EXAMPLES)


def choose_device(asked: str) -> str:
    """The device to compute on; ``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        RequestError: there is no such device, or none on this machine.
    """
    check_device(asked)
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(asked)
    except RuntimeError:
        raise unknown("device", asked, EXAMPLES) from None
    try:
        # Read back, because a device that holds no values (meta) can be allocated on.
        torch.zeros(1, device=asked).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = reason_of(error).partition(". ")[0]
        raise RequestError(f"device {asked} is not available here ({reason}): use cpu, or leave it out") from None
    return asked


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how the system, the CPU's allocator or a GPU's says that there is no memory left."""
    import torch

    # The CPU's allocator has no error of its own.
    allocator = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return allocator or isinstance(error, MemoryError | torch.OutOfMemoryError)
