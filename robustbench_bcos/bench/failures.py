"""Models and plug-ins that fail in the middle of the work: where, at which image, and why, in one sentence."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_bcos.core.devices import is_out_of_memory
from robustbench_bcos.core.errors import Broken, RequestError, named_reason_of, reason_of
from robustbench_bcos.data.dataset import AbstractDataset
from robustbench_bcos.model_zoo.models import Model
from robustbench_bcos.model_zoo.sources.imported import is_own, where

LISTED = 5
"""Images that a message names where it cannot be told which of them it was."""

IN_PLACE = ("inplace operation", "in-place operation")
"""In the messages of autograd where a value that it needs has been written over."""


class AnswersChanged(RuntimeError):
    """A model answers in another form than it did before, of which no number can be made."""


class SameForm:
    """A forward hook that refuses answers which have not as many classes as the first one, or not one for each image.

    Raises:
        AnswersChanged: when the model is asked.
    """

    def __init__(self) -> None:
        self._classes: int | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], answer: Tensor) -> None:
        """Compare an answer with the first."""
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else ()
        if self._classes is None and len(shape) == 2:
            self._classes = shape[1]
        expected = len(inputs[0]), self._classes
        if self._classes is not None and shape != expected:
            given = f"outputs of shape {shape}" if shape else type(answer).__name__
            raise AnswersChanged(f"it gives {given} where {expected} is the form of its first answers")


def remedy_for(error: BaseException, otherwise: str) -> str:
    """What to do about errors whose place does not say it."""
    if isinstance(error, AnswersChanged):
        return "make it give one logit per image and class whenever it is asked"
    if isinstance(error, RuntimeError) and any(said in str(error) for said in IN_PLACE):
        return "write y = y + 1 in place of y += 1, and inplace=False, where a value is used again"
    return otherwise


@contextmanager
def failures_named(model: Model, dataset: AbstractDataset, indices: Sequence[int], work: str) -> Iterator[None]:
    """Turn an error of code that is not this package's into :class:`Broken`; our own mistakes keep their traceback.

    Args:
        model: what is asked, on its device.
        dataset: of the images.
        indices: of the images that are worked on, if these are known.
        work: what is being done, for the message: ``in cell ...``.
    """
    try:
        yield
    except (RequestError, Broken):
        raise
    except (Exception, SystemExit) as error:
        remedy = remedy_for(error, "")
        # What autograd says of a model, it says when the model's code has returned.
        of_model = bool(remedy) or _passes_through(error, model)
        if is_out_of_memory(error) or not (of_model or is_own(error)):
            raise
        failed = f"model {model.name!r}" if of_model else "a plug-in"
        image = _at(_failing(model, dataset, indices) if of_model else list(indices))
        place = "" if remedy else where(error)
        named = reason_of(error).partition(": ")[0] if remedy else named_reason_of(error)
        reason = ", ".join([named, *([place] if place else [])])
        raise Broken(f"{failed} failed {image}{work} ({reason}): {remedy or 'mend it there'}") from error


def _passes_through(error: BaseException, model: Model) -> bool:
    """Whether it was raised in a module of the model, or below one."""
    modules = {id(module) for network in (model.classifier, model.attack_model) for module in network.modules()}
    return any(id(frame.f_locals.get("self")) in modules for frame, _ in traceback.walk_tb(error.__traceback__))


@torch.no_grad()
def _failing(model: Model, dataset: AbstractDataset, indices: Sequence[int]) -> list[int]:
    """The images that the model fails on by themselves, if that tells them from the others."""
    device = next((parameter.device for parameter in model.classifier.parameters()), None)
    failing = []
    for index in indices:
        image = dataset.read(index)[None].to(device)
        try:
            model.classifier(image)
        except (Exception, SystemExit):
            failing.append(index)
    return failing or list(indices)


def _at(indices: list[int]) -> str:
    if not indices:
        return ""
    named = ", ".join(map(str, indices[:LISTED]))
    if len(indices) == 1:
        return f"at image {named} "
    others = f" or {len(indices) - LISTED} others" if len(indices) > LISTED else ""
    return f"at one of the images {named}{others} "
