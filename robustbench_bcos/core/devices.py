"""Where tensors live."""

import torch

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.registry import unknown

EXAMPLES = ("auto", "cpu", "cuda", "cuda:1")


def choose_device(asked: str) -> str:
    """The device to compute on; ``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        RequestError: there is no such device, or none on this machine.
    """
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(asked)
    except RuntimeError:
        # torch's own list has twenty kinds, most of which nobody has.
        raise unknown("device", asked, EXAMPLES) from None
    try:
        # Read back, because a device that holds no values (meta) can be allocated on.
        torch.zeros(1, device=asked).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = reason_of(error).partition(". ")[0]
        raise RequestError(f"device {asked} is not available here ({reason}): use cpu, or leave it out") from None
    return asked
