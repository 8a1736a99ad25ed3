"""Where a number comes from: versions, device, commit."""

import hashlib
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from robustbench_bcos.core.errors import RequestError
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


def check_same(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """See that a job has what the submitter had.

    Raises:
        RequestError: something is different.
    """
    for key, found in here.items():
        if (told := there.get(key)) != found:
            values = f"{key} is {found} on {socket.gethostname()} and {told} where the work was submitted"
            long = f"{key} on {socket.gethostname()} and where the work was submitted are not the same"
            raise RequestError(f"{values if len(values) < 200 else long}: make the two alike")


def describe_device(device: str) -> str:
    """The device's own name and, on a CPU, the number of threads."""
    # Not above: those who submit jobs, and ask how they are, need it without torch.
    import torch

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
