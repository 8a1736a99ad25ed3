"""A conventional network after its conversion."""

from typing import Any

from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from robustbench_bcos.model_zoo.bcos.explanation_mode import DynamicLayer
from robustbench_bcos.model_zoo.bcos.layers import BcosModule, LogitLayer
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from robustbench_bcos.model_zoo.bcos.raw import RawBcosConv2d
from robustbench_bcos.model_zoo.bcosify import RULES
from robustbench_bcos.model_zoo.bcosify.rule import AbstractRule

HOMES = ("robustbench_bcos.", "torch.nn.")
"""Where modules come from that write into nothing, once activations do not."""


class BcosifiedNetwork(DynamicLayer):
    """The converted layers, in the ``forward`` of the source, and a logit layer.

    In explanation mode, functions that its modules call are what :data:`RULES` say, so that it is a linear map of the
    encoded image plus the constants that were kept.

    Args:
        layers: the converted network.
        logit_layer: the last step.
    """

    def __init__(self, layers: nn.Module, logit_layer: LogitLayer) -> None:
        super().__init__()
        self.layers = layers
        self.logit_layer = logit_layer
        # A forward of somebody else's may add in place.
        foreign = any(not type(module).__module__.startswith(HOMES) for module in layers.modules())
        for module in layers.modules():
            if isinstance(module, RawBcosConv2d):
                module.overwritten = foreign

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        if self.explaining:
            with DynamicFunctions():
                logits: Tensor = self.layers(encoded)
        else:
            logits = self.layers(encoded)
        shifted: Tensor = self.logit_layer(logits)
        return shifted

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """Convolutions whose one consumer is a batch norm, as far as ``forward`` can be traced without an image."""
        try:
            graph = _Layers().trace(self.layers)
        except Exception:  # Whatever code of the network that depends on its input raises.
            return []
        modules = dict(self.layers.named_modules())
        calls = [node.target for node in graph.nodes if node.op == "call_module"]
        pairs: list[tuple[nn.Module, nn.Module]] = []
        for node in graph.nodes:
            if node.op != "call_module" or len(node.users) != 1 or calls.count(node.target) != 1:
                continue
            (user,) = node.users
            if user.op != "call_module" or calls.count(user.target) != 1:
                continue
            layer, norm = modules[str(node.target)], modules[str(user.target)]
            if isinstance(layer, BcosModule) and isinstance(norm, BatchNormUncentred2d):
                pairs.append((layer, norm))
        return pairs


class _Layers(fx.Tracer):
    """Traces through modules of the network's own, and into none of the layers here."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DynamicLayer) or super().is_leaf_module(m, module_qualified_name)


class DynamicFunctions(TorchFunctionMode):
    """A context in which functions have the gradient of a linear map, see :data:`RULES`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        rule = _rules().get(name_of(func))
        return func(*args, **(kwargs or {})) if rule is None else rule(func, args, kwargs or {})


def name_of(function: Any) -> str:  # noqa: ANN401
    """A function's name, which is the same for what works in place."""
    name = str(getattr(function, "__name__", ""))
    return name if name.endswith("__") else name.removesuffix("_")


_found: dict[str, AbstractRule] = {}


def _rules() -> dict[str, AbstractRule]:
    if not _found:
        rules = (RULES[name] for name in RULES)
        _found.update({function: rule for rule in rules for function in rule.functions})
    return _found
