"""Evaluation-only twins of networks, which do not compute again what never changes.

The filters of a B-cos layer are normalised once, and the gradient of its input is taken in closed form. An uncentred
batch norm that follows it is a constant scale c of each output; |a| a is homogeneous of degree 2 in the response a, so
the scale goes into the filters as its root. A batch norm behind a conventional convolution goes into filters and bias.
"""

import copy
from typing import TypeVar, cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robustbench_bcos.model_zoo.architectures.layers import NormedBlock
from robustbench_bcos.model_zoo.bcos.closed_form import geometry_of
from robustbench_bcos.model_zoo.bcos.explanation_mode import DynamicLayer
from robustbench_bcos.model_zoo.bcos.layers import AbstractBcosLayer, BcosConv2d, unit_rows
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from robustbench_bcos.model_zoo.classifier import freeze

M = TypeVar("M", bound=nn.Module)


def fold(model: M, *, linear: bool = False) -> M:
    """A frozen copy of a model that gives the same logits and input gradients, up to rounding, in less time.

    Guaranteed: the same function, and the same dynamic weights in explanation mode, as close to them as the model is
    itself in the same precision; that is 1e-5 of the largest value or less, and more where the depth of a random
    network, or the kink of a ReLU, makes more of rounding. The model stays as it was, in whatever mode it is. The copy
    is for evaluation alone: gradients, which ``backward`` and ``torch.autograd.grad`` give, cannot be differentiated
    again. It keeps the memory format; on CPUs, ``.to(memory_format=torch.channels_last)`` is faster.

    Args:
        model: anything; what is not of this package is copied as it is.
        linear: treat every dynamic scale as a constant for good, so that gradients are dynamic weights even without
            :func:`~robustbench_bcos.model_zoo.bcos.explanation_mode.explanation_mode`, and under ``torch.compile``. Not
            to be attacked.
    """
    folded = freeze(copy.deepcopy(model))
    blocks = [module for module in folded.modules() if isinstance(module, NormedBlock)]
    for layer, norm in [pair for block in blocks for pair in block.normed()]:
        if _absorbs(layer, norm):
            _drop(norm, folded)
    for module in list(folded.modules()):
        if isinstance(module, AbstractBcosLayer):
            _normalise(module)
        if isinstance(module, BcosConv2d):
            module.closed_form = geometry_of(module.linear, b=module.b, max_out=module.max_out)
        if isinstance(module, DynamicLayer):
            module.linearised = linear
    return folded


def _absorbs(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether the layer does the norm's work from now on."""
    if isinstance(layer, BcosConv2d) and isinstance(norm, BatchNormUncentred2d) and _scales(layer, norm):
        _rescale(layer, norm)
        return True
    if type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_var is not None:
        statistics = (cast(Tensor, norm.running_mean), norm.running_var, norm.eps)
        fused = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, norm.weight, norm.bias)
        layer.weight, layer.bias = fused
        return True
    return False


def _scales(layer: BcosConv2d, norm: BatchNormUncentred2d) -> bool:
    """Not where an epsilon on the cosine breaks homogeneity, nor where a negative scale would meet a maximum."""
    if layer.b not in (1, 2) or norm._parameters["bias"] is not None or norm.running_var is None:
        return False
    return layer.max_out == 1 or norm.weight is None or bool((norm.weight >= 0).all())


def _rescale(layer: BcosConv2d, norm: BatchNormUncentred2d) -> None:
    scale = cast(Tensor, norm.running_var).add(norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    root = scale.sign() * scale.abs() ** (1 / layer.b)
    _normalise(layer)
    filters = root.expand(layer.linear.weight.shape[0] // layer.max_out).repeat_interleave(layer.max_out)
    layer.linear.weight.mul_(filters.view(-1, 1, 1, 1))


def _drop(norm: nn.Module, network: nn.Module) -> None:
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, nn.Identity())


def _normalise(layer: AbstractBcosLayer) -> None:
    if not layer.linear.normalised:
        layer.linear.weight = nn.Parameter(unit_rows(layer.linear.weight), requires_grad=False)
        layer.linear.normalised = True
