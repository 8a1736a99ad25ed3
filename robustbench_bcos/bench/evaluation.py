"""The runner for a model and images that are in memory, without a folder."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import nn

from robustbench_bcos.bench.cells import check_radius, make_cells
from robustbench_bcos.bench.config import make_config
from robustbench_bcos.bench.model_preconditions import check_answers
from robustbench_bcos.bench.plan import Plan, check_precision, diameter, explained_subset
from robustbench_bcos.bench.preconditions import check_explanation, check_model
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.devices import choose_device
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.types import Images, Labels
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.models import LoadedModel, Model, find_models, own_model

LISTED = ("steps", "loss", "restarts", "attack")
OPTIONS = (
    *LISTED,
    "step_size",
    "start",
    "count",
    "queries",
    "targets",
    "evidence",
    "space",
    "seed",
    "batch_size",
    "independent_cells",
    "device",
    "compile",
    "memory_format",
    "precision",
    "name",
    "explained",
    "explanation",
    "skip_model_checks",
)


def evaluate(
    model: nn.Module | str,
    images: Images,
    labels: Labels,
    norm: str | Sequence[str],
    eps: str | float | Sequence[str | float],
    **options: Any,  # noqa: ANN401 (the grid's own options, checked by make_config)
) -> pd.DataFrame:
    """Robust accuracies of a model, one row per cell, in the columns of ``results.csv``.

    Args:
        model: from images in [0, 1] to logits, or a zoo name; it is not modified.
        images: RGB in [0, 1].
        labels: their classes.
        norm: ``l2``, ``linf``, or several.
        eps: radii in units of the pixel range, as numbers or as text such as ``8/255``.
        options: as on the command line: ``steps``, ``step_size``, ``loss``, ``restarts``, ``start``, ``count``,
            ``attack``, ``queries``, ``targets``, ``evidence``, ``space``, ``seed``, ``batch_size``, ``device``;
            ``explained``, the number of images whose explanations are compared, by default none, and ``explanation``,
            the method; ``name`` for the row; and ``skip_model_checks``, by default true: false refuses a model whose
            answers make every number meaningless, as ``run`` does, where otherwise evidence says so on the row.

    Raises:
        RequestError: it cannot be carried out as asked.
    """
    for option in options:
        if option not in OPTIONS:
            raise unknown("option", option, OPTIONS)
    name = options.pop("name", model if isinstance(model, str) else type(model).__name__)
    flags = {key: _listed(value) if key in LISTED else value for key, value in options.items()}
    flags |= {"norm": _listed(norm), "eps": tuple(str(radius) for radius in _listed(eps))}
    # Whoever has the model in hand gets rows, and evidence judges them.
    flags = {"skip_model_checks": True, "dataset": "memory", "figures": False} | flags
    config = make_config(flags)
    device = choose_device(config.device)
    check_precision(config.precision, device)
    loaded = _load(model, name)
    classes = _classes(loaded, images, device)
    chosen = EvalSubset.of(InMemory(images, labels, classes=classes))
    check_model(loaded, chosen, device=device, space=config.space)
    if not config.skip_model_checks:
        check_answers(loaded, chosen, device=device)
    explained = explained_subset(config, chosen)
    if explained is not None:
        check_explanation(loaded, explained, config.explanation, device)
    cells = make_cells(config, [name])
    for cell in cells:
        check_radius(cell.radius, cell.norm, diameter(cell, chosen))
    plan = Plan(config, chosen, (LoadedModel(loaded),), {name: loaded.weights_sha256}, tuple(cells), device, explained)
    with Store() as store:
        for _ in execute(plan, store):
            pass
        return make_records(store, plan.identity)


def _load(model: nn.Module | str, name: str) -> Model:
    if isinstance(model, str):
        found = find_models(model, Zoo())
        if len(found) > 1:
            raise RequestError(f"{model!r} names {len(found)} models: evaluate one at a time")
        return replace(found[0].load(), name=name)
    return own_model(name, freeze(copy.deepcopy(model)))


def _classes(model: Model, images: Images, device: str) -> int:
    if model.classes is not None:
        return model.classes
    with torch.no_grad():
        return int(model.classifier.to(device)(images[:1].to(device)).shape[1])


def _listed(value: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return (value,) if isinstance(value, str | int | float) else tuple(value)
