"""Where tensors live. Importing this imports no torch."""

import ctypes
import sys
from pathlib import Path
from runpy import run_path

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.packages import find_package
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
    known = kind in KINDS or (kind.isidentifier() and find_package(f"torch_{kind}") is not None)
    if not known or (colon and not (number.isascii() and number.isdigit())):
        raise unknown("device", asked, EXAMPLES)


def check_driver(asked: str) -> None:
    """Refuse a GPU of NVIDIA on a machine without its driver, before torch is imported.

    Raises:
        RequestError: as :func:`choose_device` says it.
    """
    check_device(asked)
    if asked.partition(":")[0] != "cuda" or _is_rocm():
        return
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        raise _not_available(asked, "there is no NVIDIA driver") from None


def _is_rocm() -> bool:
    """Whether this torch calls GPUs of AMD ``cuda``, as its file of versions says."""
    found = find_package("torch")
    file = Path(found.origin or "").with_name("version.py") if found else Path()
    return file.is_file() and run_path(str(file)).get("hip") is not None


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
        raise _not_available(asked, reason_of(error).partition(". ")[0]) from None
    return asked


def _not_available(asked: str, reason: str) -> RequestError:
    return RequestError(f"device {asked} is not available here ({reason}): use cpu, or leave it out")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how the system, the CPU's allocator or a GPU's says that there is no memory left."""
    import torch

    # The CPU's allocator has no error of its own.
    allocator = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return allocator or isinstance(error, MemoryError | torch.OutOfMemoryError)
