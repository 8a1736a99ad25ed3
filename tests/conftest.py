"""Shapes in signatures are checked whenever tests run: the hook must be in place before the package is imported."""

import torch
from jaxtyping import install_import_hook

# Small tensors: one thread is as fast as many, and several workers do not fight over the cores.
torch.set_num_threads(1)
install_import_hook("robustbench_bcos", "beartype.beartype")
