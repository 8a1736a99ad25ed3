"""Whether contributions sum to the logit, and what keeps them from it.

That is layers and tokens that are a constant, which belongs to no pixel; and gradients that pass through what an
explanation must hold constant, such as the step sizes of a solver of differential equations.
"""

from torch import nn

from robustbench_bcos.explanations.explanation import Explanation
from robustbench_bcos.model_zoo.bcos.layers import LogitLayer
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from robustbench_bcos.model_zoo.bcos.tokens import PositionCode
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork

NOTICED = 1e-3
"""Share of the logits that may be missing from their contributions: rounding leaves less, a differentiated choice of
step sizes more."""


TOKENS = ("token", "embed")
"""In names of parameters that transformers put beside, or add to, features of an image: cls_token, pos_embedding."""


def additive_constants(network: nn.Module) -> list[str]:
    """Names of the layers, and of tokens, whose constants are part of the logits but not of any contribution map.

    A bias anywhere is one, and so are the running mean of a centred batch norm and a transformer's position code and
    class token, where these are parameters of the network as a whole.
    Centred norms that take their mean from the image are not, since a mean is linear. The logit bias is excluded on
    purpose: it is known and documented. Empty for networks whose dynamic weights sum to the logit without its bias.
    """
    layers = [name for name, module in network.named_modules() if _adds_constant(module)]
    return layers + [
        f"{path}.{name}".removeprefix(".")
        for path, module in network.named_modules()
        if any(True for _ in module.children())
        for name in module._parameters
        if any(part in name for part in TOKENS)
    ]


def _adds_constant(module: nn.Module) -> bool:
    if isinstance(module, LogitLayer):
        return False
    if isinstance(module, PositionCode) or module._parameters.get("bias") is not None:
        return True
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or isinstance(module, BatchNormUncentred2d):
        return False
    return module.running_mean is not None and bool(module.running_mean.any())


def missing_share(network: nn.Module, explanation: Explanation, contrast: str | None = None) -> float:
    """What contributions leave of the explained logits without their bias, relative to these, over all images.

    Args:
        network: what was explained.
        explanation: of one target of each image.
        contrast: that it is of; the bias is in no difference of logits.
    """
    bias = 0.0 if contrast else sum(_logit_bias(module) for module in network.modules())
    logits = explanation.logits.double().gather(1, explanation.targets[:, None]).squeeze(1) - bias
    left = logits - explanation.contributions.double().flatten(1).sum(dim=1)
    return float(left.abs().sum() / logits.abs().sum())


def what_is_missing(network: nn.Module, explanation: Explanation, contrast: str | None = None) -> str:
    """A sentence about dynamic weights whose contributions do not sum to their logits; empty where they do."""
    share = missing_share(network, explanation, contrast)
    if not share > NOTICED:
        return ""
    constants = additive_constants(network)
    if constants:
        more = f" and {len(constants) - 1} more" if len(constants) > 1 else ""
        why = f"{constants[0]}{more} add constants, which belong to no pixel"
    else:
        why = (
            "a gradient passes through what an explanation holds constant, such as the step sizes of an ODE solver: "
            "give torchode's AutoDiffAdjoint backprop_through_step_size_control=False and torchdiffeq's odeint a "
            "first_step, or use a solver of robustbench_bcos.dynamics"
        )
    return f"{share:.1%} of the logits is in no contribution: {why}"


def _logit_bias(module: nn.Module) -> float:
    """The bias of the last layer, in this package's networks and in the official ones."""
    if isinstance(module, ZeroShotNetwork):
        return module.bias
    if isinstance(module, LogitLayer):
        return module.bias or 0.0
    official = getattr(module, "logit_bias", None)
    return official if isinstance(official, float) else 0.0
