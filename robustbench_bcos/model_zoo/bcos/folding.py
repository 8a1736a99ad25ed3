"""Folded copies of networks, for evaluation only, in which constant computations are done once.

The filters of a B-cos layer are normalised once, and the gradient by its input is computed in closed form. An uncentred
batch norm that follows it is a constant scale c of each output; |a| a is homogeneous of degree 2 in the response a, so
the scale goes into the filters as its root. A batch norm after a conventional convolution goes into filters and bias.
"""

import copy
from typing import TypeVar, cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robustbench_bcos.model_zoo.architectures.layers import NormedBlock
from robustbench_bcos.model_zoo.bcos.closed_form import geometry_of
from robustbench_bcos.model_zoo.bcos.explanation_mode import DynamicLayer
from robustbench_bcos.model_zoo.bcos.layers import (
    AbstractBcosLayer,
    BcosConv2d,
    BcosLinear,
    UnitConv2d,
    UnitLinear,
    unit_rows,
)
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze

M = TypeVar("M", bound=nn.Module)


def fold(model: M, *, linear: bool = False) -> M:
    """A frozen copy of a model that gives the same logits and input gradients, up to rounding, in less time.

    Logits, input gradients and dynamic weights in explanation mode differ by rounding alone: by 1e-5 of the largest
    value or less, and by more where depth with random weights, or the kink of a ReLU, amplifies rounding. The model is
    not modified. The copy is for evaluation only: its gradients cannot be differentiated again. It keeps the memory
    format; on CPUs, ``.to(memory_format=torch.channels_last)`` is faster.

    Args:
        model: any module; layers of other packages are copied unchanged.
        linear: always treat dynamic scales as constants, so that gradients are dynamic weights even without
            :func:`~robustbench_bcos.model_zoo.bcos.explanation_mode.explanation_mode`, and under ``torch.compile``. Do
            not attack such a copy.
    """
    folded = freeze(_copied(model))
    for module in folded.modules():
        if isinstance(module, AbstractBcosLayer):
            module.b = module.b  # What was learned is a constant from here on.
    blocks = [module for module in folded.modules() if isinstance(module, NormedBlock)]
    # A block within a block may list the same pair.
    for layer, norm in dict.fromkeys(pair for block in blocks for pair in block.normed()):
        if _absorbs(layer, norm):
            _drop(norm, folded)
    for module in list(folded.modules()):
        if isinstance(module, AbstractBcosLayer):
            _normalise(module)
        if isinstance(module, BcosConv2d) and module.linear.bias is None:
            module.closed_form = geometry_of(module.linear, b=module.b, max_out=module.max_out)
        if isinstance(module, BcosLinear):
            module.closed_form = module.b != 1
        if isinstance(module, DynamicLayer):
            module.linearised = linear
    return folded


def _copied(model: M) -> M:
    """A copy whose alternatives are those of the model: another B or norm cannot be put into what is folded."""
    copied = copy.deepcopy(model)
    for origin, made in zip(model.modules(), copied.modules(), strict=True):
        if isinstance(origin, ImageClassifier) and isinstance(made, ImageClassifier):
            made.alternatives = origin.alternatives
    return copied


def _absorbs(layer: nn.Module, norm: nn.Module) -> bool:
    """Merge a norm into the layer before it, if possible; gives whether it was."""
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
    """Whether the norm can be merged: no epsilon on the cosine (B is 1 or 2), no negative scale before a maximum."""
    if layer.b not in (1, 2) or norm._parameters["bias"] is not None or norm.running_var is None:
        return False
    if layer.linear.bias is not None:
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
    # Raw filters keep their norm.
    if isinstance(layer.linear, UnitConv2d | UnitLinear) and not layer.linear.normalised:
        layer.linear.weight = nn.Parameter(unit_rows(layer.linear.weight), requires_grad=False)
        layer.linear.normalised = True
