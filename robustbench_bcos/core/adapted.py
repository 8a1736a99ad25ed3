"""Models as users have them, as what attacks and explanations ask: a module from images to logits.

What cannot be read as one logit per image and class is refused with the remedy and never guessed.
"""

import copy
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import CodeType, FunctionType, ModuleType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import AnyModel, Images, Logits


class Adapted(nn.Module):
    """A model of any form, whose answers are logits of shape (image, class) on the device of the images.

    Images are handed on in the precision and on the device of the model's parameters, as a copy, which a model may
    write into. Of several outputs, the logits
    are taken (:func:`as_logits`); of one logit, which tells two classes apart, two are made.

    Args:
        model: any callable. The modules that it refers to become parts of this one.

    Raises:
        RequestError: it cannot be called, or is the class of a model.
    """

    def __init__(self, model: AnyModel) -> None:
        super().__init__()
        if isinstance(model, type) or not callable(model):
            what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
            raise RequestError(
                f"model must be a callable from images to logits, got {what}: make a torch.nn.Module of it first"
            )
        self.model = differentiable(model)
        if not isinstance(model, nn.Module):
            self.behind = nn.ModuleList(modules_of(model))
        # In a tuple, so that it is no parameter twice.
        self._typical = (_typical(self),)

    def forward(self, images: Images) -> Logits:
        """Images in [0, 1] to logits."""
        (like,) = self._typical
        answer = self.model(images.clone() if like is None else images.to(like, copy=True))
        return as_logits(answer, len(images)).to(images.device)


def adapted(module: nn.Module, images: Images) -> nn.Module:
    """The module itself where it answers images with logits and leaves them as they are, or fails; else adapted."""
    shown = images.clone()
    try:
        with torch.no_grad():
            answer = module(shown)
    except (Exception, SystemExit):  # Whatever user code raises: what is asked next says it with the model's name.
        return module
    plain = isinstance(answer, Tensor) and answer.dim() > 1 and answer.shape[1:] != (1,)
    return module if plain and torch.equal(shown, images) else Adapted(module)


def as_logits(answer: object, count: int) -> Logits:
    """The logits in what a model returns for so many images.

    They are what is called ``logits``, or else the only output of shape (image, class). One number per image is the
    logit of the second of two classes: minus its half and its half give the same probabilities.

    Raises:
        RequestError: there are none, or it is not clear which output they are.
    """
    logits = answer if isinstance(answer, Tensor) else _chosen(answer, count)
    if logits.shape in ((count,), (count, 1)) and logits.is_floating_point():
        half = logits.reshape(count, 1) / 2
        return torch.cat([-half, half], dim=1)
    if not logits.is_floating_point():
        raise RequestError(f"the model returns {logits.dtype}: it must return a tensor of floating-point logits")
    if logits.dim() != 2 or len(logits) != count:
        raise RequestError(
            f"the model gives outputs of shape {tuple(logits.shape)} for {count} images: it must give one logit per "
            "image and class"
        )
    return logits


def _chosen(answer: object, count: int) -> Tensor:
    named = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if isinstance(named, Tensor):
        return named
    parts: Iterable[object] = ()
    if isinstance(answer, Mapping):
        parts = answer.values()
    elif isinstance(answer, tuple | list):
        parts = answer
    tensors = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
    found = [part for part in tensors if part.dim() == 2 and len(part) == count]
    if len(found) == 1:
        return found[0]
    kind = type(answer).__name__
    if not found:
        raise RequestError(f"the model returns {kind}: it must return a tensor of floating-point logits")
    shapes = " and ".join(str(tuple(part.shape)) for part in found)
    raise RequestError(
        f"the model returns {kind} with tensors of shape {shapes}, each of which may be logits: return the logits "
        "alone, such as with lambda images: model(images)[0]"
    )


REACH = 6
"""How many references away from a callable its modules are looked for."""


def modules_of(model: AnyModel) -> list[nn.Module]:
    """The modules that a callable asks: itself, and those that it refers to, however they are kept.

    A module that stands in a list, in a dictionary or behind a function is none of a module's own children, and its
    mode is not switched with theirs.
    """
    found: dict[nn.Module, None] = {}
    seen: dict[int, object] = {}  # The objects too, because an identity is another's once they are gone.
    values: list[object] = [model]
    for _ in range(REACH):
        referred: list[object] = []
        for value in values:
            if id(value) in seen or isinstance(value, _PLAIN):
                continue
            seen[id(value)] = value
            if isinstance(value, nn.Module):
                if not any(value is part for root in found for part in root.modules()):
                    found[value] = None
                referred += [one for part in value.modules() for one in _kept(part)]
            else:
                referred += _referred(value)
        values = referred
    return list(found)


_PLAIN = (Tensor, type, ModuleType, str, bytes, int, float)
"""What refers to no module of a user."""


def _kept(module: nn.Module) -> Iterable[object]:
    return (value for name, value in vars(module).items() if name not in _OWN)


_OWN = set(vars(nn.Module()))
"""Attributes of every module, such as its parameters and hooks."""


def _referred(value: object) -> Iterable[object]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if inspect.isfunction(value):
        return _of_function(value)
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset):
        return value
    return vars(value).values() if hasattr(value, "__dict__") else ()


def _of_function(function: FunctionType) -> list[object]:
    """What a function closes over, its defaults, and the globals that it names, also in functions inside it."""
    codes, names = [function.__code__], set[str]()
    for code in codes:
        names.update(code.co_names)
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    values: list[object] = [function.__globals__[name] for name in names if name in function.__globals__]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # Nothing was assigned to it yet.
            values.append(cell.cell_contents)
    return [*values, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


@contextmanager
def in_evaluation_mode(model: AnyModel) -> Iterator[None]:
    """Put a model into evaluation mode, and give every submodule its mode back, and every parameter its flag.

    Gradients can be taken inside, also where the caller has switched them off.
    """
    roots = modules_of(model)
    # A frozen module of TorchScript has no mode.
    modes = {module: getattr(module, "training", False) for root in roots for module in root.modules()}
    flags = [(parameter, parameter.requires_grad) for root in roots for parameter in made_parameters(root)]
    switched = [root for root in roots if any(modes[module] for module in root.modules())]
    try:
        for root in switched:
            to_evaluation(root)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for root in switched:
            for module in root.modules():
                if getattr(module, "training", False) != modes[module]:
                    module.training = modes[module]
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


def made_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module.

    Raises:
        RequestError: one of them, or a buffer, has no values yet.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise RequestError(
                f"{name} of {name_of(module)} has no shape yet: show it a batch of images once, and load its weights"
            )
        if tensor.is_meta:
            raise RequestError(f"{name} of {name_of(module)} is on the device meta, without values: load its weights")
    return list(module.parameters())


def to_evaluation(module: nn.Module) -> None:
    """Switch to evaluation mode. An exported program has no modes: it is what it was when it was exported."""
    try:
        module.eval()
    except NotImplementedError:
        return


def copied(module: nn.Module, *, sharing: bool = False) -> nn.Module:
    """A copy in float32: in half precision, gradients round to 0.

    Tensors that were computed in the module's last pass, such as the weights that ``weight_norm`` makes, are copied
    without their history, of which torch can make no copy.

    Args:
        module: left as it is.
        sharing: parameters of the copy are others, with the memory of the module's, which nobody may write into until
            :func:`parted` has given the copy memory of its own. Otherwise nothing is shared.

    Raises:
        Exception: whatever a module raises that cannot be copied.
    """
    computed = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
    memory: dict[int, Tensor] = {id(tensor): tensor.detach().clone() for tensor in computed if not tensor.is_leaf}
    if sharing:
        memory |= {
            id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
            for parameter in module.parameters()
            if not parameter.is_inference()
        }
    with torch.no_grad():  # Otherwise copies of TorchScript's parameters are computed ones.
        made = copy.deepcopy(module, memory)
    exact = all(parameter.dtype == torch.float32 for parameter in made.parameters() if parameter.is_floating_point())
    return made if exact else made.float()


def parted(made: nn.Module, origin: nn.Module) -> None:
    """Give a module memory of its own where it has that of another one.

    Args:
        made: changed in place.
        origin: left as it is.
    """
    foreign = {parameter.untyped_storage().data_ptr() for parameter in origin.parameters()}
    for parameter in made.parameters():
        if parameter.untyped_storage().data_ptr() in foreign:
            parameter.data = parameter.data.clone()


def differentiable(model: AnyModel) -> AnyModel:
    """The model, or a copy of a module that was made in inference mode, through which torch gives no gradients."""
    if not isinstance(model, nn.Module):
        return model
    made = any(tensor.is_inference() for tensors in (model.parameters(), model.buffers()) for tensor in tensors)
    return copied(model) if made else model


def like_parameters(module: nn.Module, images: Images) -> Images:
    """Images in the precision and on the device of a module's parameters, where they have one precision."""
    like = _typical(module)
    return images if like is None else images.to(like)


def _typical(module: nn.Module) -> Tensor | None:
    """A parameter of the precision that all floating-point parameters have; ``None`` where there is no such one."""
    floating = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    return floating[0] if len({parameter.dtype for parameter in floating}) == 1 else None


def name_of(model: AnyModel) -> str:
    """What a model is called that was handed over: a function's name, or the name of the class."""
    if isinstance(model, functools.partial):
        return name_of(model.func)
    if inspect.ismethod(model) and isinstance(model.__self__, nn.Module):
        return name_of(model.__self__)
    name = getattr(model, "__name__", "") or getattr(model, "original_name", "") or type(model).__name__
    return "function" if name == "<lambda>" else cast(str, name)
