"""Every layer of a network is converted, or none: the copy that is worked on is the caller's to keep or to drop."""

from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import UninitializedParameter

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.explanation_mode import official_layers
from robustbench_bcos.model_zoo.bcos.layers import is_bcos
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter, forward_of
from robustbench_bcos.model_zoo.bcosify.layers.attention_pool import PooledTokens
from robustbench_bcos.model_zoo.cards import BcosifiedSpec

QUANTISED = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic", "torch.nn.qat", "torchao.")
"""Where quantised and fused layers come from."""


@dataclass(frozen=True, kw_only=True)
class ConvertedLayer:
    """A layer, what it has become, and its parameters that can be dropped."""

    path: str
    kind: str
    """Class of the source's layer."""
    became: str
    """Class of its counterpart; empty where it stays as it is."""
    biases: tuple[tuple[nn.Module, str], ...] = ()
    means: bool = False
    """Whether it had running means, which its counterpart does not use."""
    known: bool = False
    """Whether a converter knows it, or else it is a module without weights, or with some that it adds or scales by."""
    module: nn.Module


def check_convertible(network: nn.Module) -> None:
    """Refuse what is no conventional network of layers.

    Raises:
        RequestError: with the path of the module that it is about, and the remedy.
    """
    if is_bcos(network) or official_layers(network):
        raise RequestError("the network has B-cos layers already: give a conventional one")
    for path, module in network.named_modules():
        reason = _refusal(module)
        if reason is not None:
            raise RequestError(f"{path or 'the network'} ({type(module).__name__}) {reason}")


def _refusal(module: nn.Module) -> str | None:
    kind = type(module)
    home = f"{kind.__module__}."
    if isinstance(module, nn.Module) and home.startswith("torch.jit."):
        return "is a program of TorchScript, which has no layers: give the module it was made from"
    if home.startswith("torch._dynamo."):
        return "is compiled: give the module behind it, model._orig_mod"
    if home.startswith(("torch.nn.parallel.", "torch.distributed.")):
        return "is a wrapper for several devices: give the module behind it, model.module"
    if home.startswith(QUANTISED):
        return "is quantised or fused: give the network as it was before that"
    if hasattr(module, "parametrizations"):
        return "has a parametrised weight: torch.nn.utils.parametrize.remove_parametrizations makes it a plain one"
    own = list(module.parameters(recurse=False))
    if any(isinstance(parameter, UninitializedParameter) for parameter in own):
        return "is lazy and has no weights yet: run the network once"
    if any(not parameter.is_floating_point() or parameter.is_sparse for parameter in own):
        return "has weights that are no real numbers: give the network in floating point"
    if any(type(hook).__module__.startswith("torch.nn.utils.") for hook in module._forward_pre_hooks.values()):
        return (
            "has a weight that is made before each pass: remove_weight_norm, remove_spectral_norm or prune.remove of "
            "torch.nn.utils makes it a plain one"
        )
    if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
        return "has hooks, which would be lost: remove them, or write what they do into a module"
    return None


def convert_layers(network: nn.Module, b: float) -> tuple[nn.Module, list[ConvertedLayer]]:
    """Convert all layers, in place; gives the network, which is another one if it is a layer itself, and what changed.

    Raises:
        RequestError: a layer cannot be converted.
    """
    walk = _Walk(b)
    return walk.visit(network, ""), walk.rows


class _Walk:
    def __init__(self, b: float) -> None:
        self.b = b
        self.rows: list[ConvertedLayer] = []
        self.done: dict[nn.Module, nn.Module] = {}

    def visit(self, module: nn.Module, path: str) -> nn.Module:
        # Shared modules stay shared.
        if module not in self.done:
            self.done[module] = self._converted(module, path)
        elif not any(True for _ in module.children()):
            made = self.done[module]
            first = next((row for row in self.rows if row.module is made), None)
            became = "" if first is None else first.became
            self.rows.append(ConvertedLayer(path=path, kind=type(module).__name__, became=became, module=made))
        return self.done[module]

    def _converted(self, module: nn.Module, path: str) -> nn.Module:
        converter = converter_for(type(module))
        if converter is not None:
            converted = converter.convert(module, path or "the network", self.b)
            if converted is not module:
                converted.train(module.training)
            self._note(module, path, converted, converter.biases(converted), known=True)
            return converted
        # Under all their names, where one is there twice.
        children = [(name, child) for name, child in module._modules.items() if child is not None]
        if not children:
            if has_own_tensors(module) and type(module).__module__.startswith("torch.nn."):
                raise RequestError(
                    f"{path or 'the network'} ({type(module).__name__}) cannot be converted: build the network without "
                    "it, or register a converter for it, see docs/bcosify.md"
                )
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
            self._note(module, path, module, [], known=False)
        for name, child in children:
            setattr(module, name, self.visit(child, f"{path}.{name}" if path else name))
        return module

    def _note(
        self, module: nn.Module, path: str, made: nn.Module, biases: list[tuple[nn.Module, str]], *, known: bool
    ) -> None:
        row = ConvertedLayer(
            path=path,
            kind=type(module).__name__,
            became="" if made is module else type(made).__name__,
            biases=tuple(entry for entry in biases if entry[0]._parameters.get(entry[1]) is not None),
            means=getattr(module, "running_mean", None) is not None,
            known=known,
            module=made,
        )
        self.rows.append(row)


def converter_for(kind: type[nn.Module]) -> AbstractConverter | None:
    """The converter that knows the ``forward`` of a class, or else takes its subclasses."""
    converters = [CONVERTERS[name] for name in CONVERTERS]
    known = [converter for converter in converters if forward_of(kind) in converter.kinds]
    taking = [converter for converter in converters if issubclass(kind, converter.bases or ())]
    return next(iter(known + taking), None)


def has_own_tensors(module: nn.Module) -> bool:
    """Whether a module has parameters or buffers beside those of its children."""
    return any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False))


def settle(network: nn.Module, layers: list[ConvertedLayer], spec: BcosifiedSpec) -> None:
    """What changes a converted network's logits, apart from B: remove biases, and change pools, as it says.

    Raises:
        RequestError: there is no pool of attention to leave out.
    """
    if not spec.biases:
        for module, name in (entry for layer in layers for entry in layer.biases):
            setattr(module, name, None)
    if spec.max_pools == "averaged":
        _average_pools(network)
    if spec.unpooled:
        pools = [module for module in network.modules() if isinstance(module, PooledTokens)]
        if not pools:
            raise RequestError(
                "the network has no pool of attention as CLIP's ResNets have, of which there would be a feature for "
                "each place: leave unpooled out"
            )
        for pool in pools:
            pool.unpool()


def _average_pools(network: nn.Module) -> None:
    """Replace pools of maxima by pools of means, as published."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.MaxPool2d:
                made = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(parent, name, made)
