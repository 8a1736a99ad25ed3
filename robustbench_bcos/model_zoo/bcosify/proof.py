"""The proof that nothing changed before B did: with B = 1 and all biases, logits are the source's."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcosify.double import InDouble

TOLERANCE = 1e-5
"""Largest difference of logits in double precision, relative to the largest logit."""

BATCH = 50


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Logits of the source and of the converted network, with B = 1 and biases, on real images."""

    images: int
    difference: float
    """Largest difference in double precision, relative to the largest logit."""
    rounding: float
    """The same in single precision."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Logits of a classifier."""

    single: Tensor
    """In single precision."""
    double: Tensor

    @property
    def rounding(self) -> float:
        """By how much they differ."""
        return _difference(self.single, self.double)


def answers(classifier: nn.Module, images: Tensor, first: Tensor | None = None) -> Answers:
    """Logits of images, computed in either precision.

    Args:
        classifier: from images in [0, 1], in single precision and evaluation mode.
        images: real ones.
        first: logits of the first ``BATCH`` images in single precision, where they are known.
    """
    batches = images.split(BATCH)
    with torch.no_grad():
        single = torch.cat([classifier(batches[0]) if first is None else first, *map(classifier, batches[1:])])
        with InDouble():
            double = torch.cat([classifier(batch.double()) for batch in batches])
    return Answers(single=single, double=double)


def prove(expected: Answers, converted: nn.Module, images: Tensor, source: Callable[[], nn.Module]) -> Proof:
    """Compare logits.

    Args:
        expected: of the conventional classifier.
        converted: its counterpart with B = 1 and biases.
        images: real ones.
        source: gives the conventional classifier, to be asked where they differ.

    Raises:
        RequestError: they differ; the first layer whose outputs do is named.
    """
    found = answers(converted, images)
    difference = _difference(found.double, expected.double)
    if not difference <= TOLERANCE:
        raise RequestError(
            f"the converted network's logits differ from the source's by {difference:.1e} of the largest one before B "
            f"was changed, where {TOLERANCE:g} is allowed: {_where(source(), converted, images[:2])}"
        )
    rounding = _difference(found.single, expected.single)
    return Proof(images=len(images), difference=difference, rounding=rounding)


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest logit."""
    return float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)


def _where(source: nn.Module, converted: nn.Module, images: Tensor) -> str:
    """The first module that is in both under one name and answers differently."""
    expected, found = (_outputs(network, images) for network in (source, converted))
    for path, answer in expected.items():
        other = found.get(path)
        if other is None or other.shape != answer.shape:
            continue
        if not (other - answer).abs().max() <= TOLERANCE * answer.abs().max():
            return f"the first module that differs is {path or 'the network'}; register a converter for it"
    return "no module of the same name differs; the network computes something else between its modules"


def _outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    handles = []

    def record(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, answer: object) -> None:
            if isinstance(answer, Tensor):
                outputs.setdefault(path, answer.detach())

        return hook

    for path, module in network.named_modules():
        name = path.removeprefix("network.").removeprefix("layers.")
        handles.append(module.register_forward_hook(record(name)))
    try:
        with torch.no_grad(), InDouble():
            network(images.double())
    finally:
        for handle in handles:
            handle.remove()
    return outputs
