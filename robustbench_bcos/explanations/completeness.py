"""Layers because of which contributions do not sum to the logit: they add a constant, which belongs to no pixel."""

from torch import nn

from robustbench_bcos.model_zoo.bcos.layers import LogitLayer
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from robustbench_bcos.model_zoo.bcos.tokens import PositionCode


def additive_constants(network: nn.Module) -> list[str]:
    """Names of the layers whose constants are part of the logits but not of any contribution map.

    A bias anywhere is one, and so are the running mean of a centred batch norm and a transformer's position code.
    Centred norms that take their mean from the image are not, since a mean is linear. The logit bias is excluded on
    purpose: it is known and documented. Empty for networks whose dynamic weights sum to the logit without its bias.
    """
    return [name for name, module in network.named_modules() if _adds_constant(module)]


def _adds_constant(module: nn.Module) -> bool:
    if isinstance(module, LogitLayer):
        return False
    if isinstance(module, PositionCode) or module._parameters.get("bias") is not None:
        return True
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or isinstance(module, BatchNormUncentred2d):
        return False
    return module.running_mean is not None and bool(module.running_mean.any())
