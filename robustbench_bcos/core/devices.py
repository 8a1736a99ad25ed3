"""Where tensors live."""

import torch

from robustbench_bcos.core.errors import RequestError, reason_of


def choose_device(asked: str) -> str:
    """The device to compute on; ``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        RequestError: this machine has no such device.
    """
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Read back, because a device that holds no values (meta) can be allocated on.
        torch.zeros(1, device=asked).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = reason_of(error).partition(". ")[0]
        raise RequestError(f"device {asked} is not available here ({reason}): use cpu, or leave it out") from None
    return asked
