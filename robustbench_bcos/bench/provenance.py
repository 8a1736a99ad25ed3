"""Where a number comes from: versions, device, commit."""

import hashlib
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from robustbench_bcos.core.version import VERSION

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "safetensors")


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages numbers depend on."""
    own = {"robustbench_bcos": VERSION, "python": platform.python_version()}
    return {**own, **{package: version(package) for package in PACKAGES}}


def commit(*, clean: bool = False) -> str | None:
    """Commit of the checkout this package runs from, with ``+dirty`` where files differ; ``None`` if there is none.

    Args:
        clean: whether it does not matter if files differ: a run in a checkout is one that does.
    """
    here = Path(__file__).parent
    if _git(here, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head, changes = _git(here, "rev-parse", "HEAD"), None if clean else _git(here, "status", "--porcelain")
    return None if head is None else head + ("+dirty" if changes else "")


def code_digest() -> str:
    """SHA-256 of all Python files of this package, with their names."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(
            f"{file.relative_to(package).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode()
        )
    return digest.hexdigest()


def describe_device(device: str) -> str:
    """The device's own name and, on a CPU, the number of threads."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def command() -> str:
    """The command line of this process."""
    return " ".join(["robustbench_bcos", *sys.argv[1:]])


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
