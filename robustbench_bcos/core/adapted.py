"""Models as users have them, as what attacks and explanations ask: a module from images to logits.

What cannot be read as one logit per image and class is refused with the remedy and never guessed.
"""

import copy
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

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
    except Exception:  # Whatever user code raises: what is asked next says it with the model's name.
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


def modules_of(model: AnyModel) -> list[nn.Module]:
    """The modules that a callable asks: itself, the one it is a method of, or those that it refers to."""
    if isinstance(model, nn.Module):
        return [model]
    if isinstance(model, functools.partial):
        return modules_of(model.func)
    if inspect.ismethod(model):
        return modules_of(model.__self__)
    if inspect.isfunction(model):
        names = inspect.getclosurevars(model)
        return _among([*names.nonlocals.values(), *names.globals.values()])
    return _among(getattr(model, "__dict__", {}).values())


def _among(values: Iterable[object]) -> list[nn.Module]:
    return list(dict.fromkeys(value for value in values if isinstance(value, nn.Module)))


@contextmanager
def in_evaluation_mode(model: AnyModel) -> Iterator[None]:
    """Put a model into evaluation mode, and give every submodule its mode back, and every parameter its flag.

    Gradients can be taken inside, also where the caller has switched them off.
    """
    roots = modules_of(model)
    modes = {module: module.training for root in roots for module in root.modules()}
    flags = [(parameter, parameter.requires_grad) for root in roots for parameter in root.parameters()]
    switched = [root for root in roots if any(module.training for module in root.modules())]
    try:
        for root in switched:
            to_evaluation(root)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for root in switched:
            for module in root.modules():
                if module.training != modes[module]:
                    module.training = modes[module]
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


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
