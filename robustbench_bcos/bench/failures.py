"""Models and plug-ins that fail in the middle of the work: where, at which image, and why, in one sentence."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from robustbench_bcos.core.devices import is_out_of_memory
from robustbench_bcos.core.errors import Broken, RequestError, named_reason_of
from robustbench_bcos.data.dataset import AbstractDataset
from robustbench_bcos.model_zoo.models import Model
from robustbench_bcos.model_zoo.sources.imported import is_own, where

LISTED = 5
"""Images that a message names where it cannot be told which of them it was."""


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
    except Exception as error:
        of_model = _passes_through(error, model)
        if is_out_of_memory(error) or not (of_model or is_own(error)):
            raise
        failed = f"model {model.name!r}" if of_model else "a plug-in"
        image = _at(_failing(model, dataset, indices) if of_model else list(indices))
        place = where(error)
        reason = ", ".join([named_reason_of(error), *([place] if place else [])])
        raise Broken(f"{failed} failed {image}{work} ({reason}): mend it there") from error


def _passes_through(error: Exception, model: Model) -> bool:
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
        except Exception:
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
