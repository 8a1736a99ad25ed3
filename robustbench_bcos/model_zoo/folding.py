"""Evaluation-only twins of B-cos networks, which do not compute again what never changes.

The filters of a layer are normalised once. An uncentred batch norm that follows it is a constant scale c of each
output; |a| a is homogeneous of degree 2 in the response a, so the scale goes into the filters as its root.
"""

import copy
from typing import TypeVar, cast

from torch import Tensor, nn

from robustbench_bcos.model_zoo.architectures.parts import NormedBlock
from robustbench_bcos.model_zoo.bcos_layers import AbstractBcosLayer, BcosConv2d, unit_rows
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.explanation_mode import DynamicLayer
from robustbench_bcos.model_zoo.norms import BatchNormUncentred2d

M = TypeVar("M", bound=nn.Module)


def fold(model: M, *, linear: bool = False) -> M:
    """A frozen copy of a model that gives the same logits and input gradients, up to rounding, in less time.

    Args:
        model: anything; what is not a B-cos layer is copied as it is.
        linear: treat every dynamic scale as a constant for good, so that gradients are dynamic weights even without
            :func:`~robustbench_bcos.model_zoo.explanation_mode.explanation_mode`, and under ``torch.compile``. Not
            to be attacked.
    """
    folded = freeze(copy.deepcopy(model))
    blocks = [module for module in folded.modules() if isinstance(module, NormedBlock)]
    for layer, norm in [pair for block in blocks for pair in block.normed()]:
        if _foldable(layer, norm):
            _absorb(layer, norm, folded)
    for module in list(folded.modules()):
        if isinstance(module, AbstractBcosLayer):
            _normalise(module)
        if isinstance(module, DynamicLayer):
            module.linearised = linear
    return folded


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    """Not where an epsilon on the cosine breaks homogeneity, nor where a negative scale would meet a maximum."""
    if not (isinstance(layer, BcosConv2d) and isinstance(norm, BatchNormUncentred2d)):
        return False
    if layer.b not in (1, 2) or norm._parameters["bias"] is not None or norm.running_var is None:
        return False
    return layer.max_out == 1 or norm.weight is None or bool((norm.weight >= 0).all())


def _absorb(layer: nn.Module, norm: nn.Module, network: nn.Module) -> None:
    assert isinstance(layer, BcosConv2d)
    assert isinstance(norm, BatchNormUncentred2d)
    scale = cast(Tensor, norm.running_var).add(norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    root = scale.sign() * scale.abs() ** (1 / layer.b)
    _normalise(layer)
    filters = root.expand(layer.linear.weight.shape[0] // layer.max_out).repeat_interleave(layer.max_out)
    layer.linear.weight.mul_(filters.view(-1, 1, 1, 1))
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, nn.Identity())


def _normalise(layer: AbstractBcosLayer) -> None:
    if not layer.linear.normalised:
        layer.linear.weight = nn.Parameter(unit_rows(layer.linear.weight), requires_grad=False)
        layer.linear.normalised = True
