"""Shapes in signatures are checked whenever tests run: the hook must be in place before the package is imported.

And what tests of several packages need.
"""

import signal
from collections.abc import Iterator

import pytest
import torch
from jaxtyping import install_import_hook

# Small tensors: one thread is as fast as many, and several workers do not fight over the cores.
torch.set_num_threads(1)
install_import_hook("robustbench_bcos", "beartype.beartype")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes inherit whether SIGINT is ignored, which a shell decides for what runs in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
