"""What attacks query in place of a model: equal to it up to rounding, and faster.

The judge asks the model itself. Where the two disagree on an adversarial example, the image is searched again on the
model itself, so that no verdict depends on how the search was made fast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, TypeGuard, cast

import torch
from torch import nn

from robustbench_bcos.bench.config import MemoryFormat, Precision
from robustbench_bcos.bench.replicas import ThreadedReplicas
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.mixed_precision import Bfloat16
from robustbench_bcos.model_zoo.models import Model

HOMES = ("robustbench_bcos.", "torch.nn.", "torchvision.", "timm.")
"""Where modules come from that are functions of their input and of nothing else, so that a copy answers as they do."""


class FastCopy(NamedTuple):
    """A copy that answers as what it was made of does."""

    network: nn.Module
    backend: str
    """How it was made fast, in words."""


def make_fast_copy(
    model: Model,
    *,
    compiled: bool = False,
    memory_format: MemoryFormat = "auto",
    precision: Precision = "fp32",
    replicas: int = 1,
) -> Model:
    """The model with a fast copy, which shares nothing with it but values.

    Args:
        model: on the device it will be attacked on.
        compiled: whether the copy is run through ``torch.compile``.
        memory_format: of its filters and features; ``auto`` is ``channels_last``.
        precision: of its products and sums. ``tf32`` is switched on where an attack is run, with :func:`in_tf32`.
        replicas: threads that share out its batches; more than one on a CPU alone.
    """
    copied = fast_copy_of(
        model.classifier, compiled=compiled, memory_format=memory_format, precision=precision, replicas=replicas
    )
    return replace(model, fast_copy=copied.network, attack_backend=copied.backend)


def fast_copy_of(
    classifier: nn.Module,
    *,
    compiled: bool = False,
    memory_format: MemoryFormat = "auto",
    precision: Precision = "fp32",
    replicas: int = 1,
) -> FastCopy:
    """A fast copy of a classifier for attacks, by the arguments of :func:`make_fast_copy`.

    Modules we do not know may be stateful (they may count their calls, say), so they are attacked directly and not
    through a copy.
    """
    network, parts = classifier, ["unfolded"]
    if is_pure(classifier):
        network, parts = fold(classifier).network, ["folded"]
        if memory_format != "contiguous":
            network = network.to(memory_format=torch.channels_last)
            parts.append("channels_last")
    if precision == "bf16":
        network = Bfloat16(network)
    parts.append(precision)
    if compiled:
        # Batches shrink as images fall: one program has to serve all sizes.
        network = cast(nn.Module, torch.compile(network, dynamic=True))
        parts.append("compiled")
    if is_pure(classifier):
        # Around the network and not its encoding: attacks in the encoded space query the network.
        shared = ThreadedReplicas(network, replicas, compiled=compiled) if replicas > 1 else network
        network = ImageClassifier(classifier.encoding, shared)
    return FastCopy(network, " ".join(parts))


def is_pure(classifier: nn.Module) -> TypeGuard[ImageClassifier]:
    """Whether a classifier consists of known modules without hooks, so that a copy computes the same."""
    return isinstance(classifier, ImageClassifier) and has_known_modules_alone(classifier)


def has_known_modules_alone(network: nn.Module) -> bool:
    """Whether all of a network is known code without hooks, which keeps nothing from one pass to the next."""
    return all(
        type(module).__module__.startswith(HOMES) and not module._forward_hooks and not module._forward_pre_hooks
        for module in network.modules()
    )


@contextmanager
def in_tf32(wanted: bool) -> Iterator[None]:
    """Let a GPU round the factors of its products to 10 bits, forward and backward."""
    if not wanted:
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
