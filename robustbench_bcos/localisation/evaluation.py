"""Games for models and images that are in memory, without a folder."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from torch import Tensor

from robustbench_bcos.bench.configured import configured
from robustbench_bcos.bench.display import watch
from robustbench_bcos.bench.evaluation import classes_of, device_of, load_one
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.adapted import in_evaluation_mode
from robustbench_bcos.core.arrays import Array, read_pairs
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.options import check_in_memory, parameters
from robustbench_bcos.core.types import AnyModel
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.localisation.comparisons import compare_scores
from robustbench_bcos.localisation.config import OPTIONS, LocaliseConfig
from robustbench_bcos.localisation.playing import play
from robustbench_bcos.localisation.rows import ComparisonRow, LocalisationRow, ScoreRow
from robustbench_bcos.localisation.setting import check_play
from robustbench_bcos.localisation.summary import as_table, summarise_scores
from robustbench_bcos.model_zoo.models import LoadedModel

IN_MEMORY = tuple(name for name, one in parameters(LocaliseConfig).items() if one.option.in_memory and name in OPTIONS)
"""What ``localise`` takes beside models and images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Localisation:
    """What was found, in the columns of the files that the command writes."""

    rows: pd.DataFrame
    """``localisation.csv``: one row per model, method and condition."""
    cells: pd.DataFrame
    """``cells.csv``: one row per map."""
    comparisons: pd.DataFrame
    """``comparisons.csv``: paired differences."""
    notes: tuple[str, ...]
    """What a reader of a number must know, a sentence each."""


def localise(
    model: AnyModel | str | Sequence[str] | Mapping[str, AnyModel | str],
    images: Array,
    labels: Array | None = None,
    *,
    masks: Array | None = None,
    name: str | None = None,
    progress: bool = False,
    **options: Any,  # noqa: ANN401 (as of the command line)
) -> Localisation:
    """Score whether explanations point at the right place, clean, attacked and under noise, on grids of images.

    Args:
        model: a callable from images in [0, 1] to logits or a zoo name; several as names, or by the names that rows are
            to have. Models are left as they were.
        images: RGB of shape (image, 3, height, width), as of ``evaluate``; or a DataLoader or dataset with labels.
        labels: one class per image.
        masks: with them the game is ``masks``: (image, height, width), at any resolution, the class of each pixel, -1
            where none of the model's classes is and -2 for what does not count. Labels are not needed then.
        name: of a single model, for the rows.
        progress: whether to show on standard error how far it is.
        options: those of ``localise`` on the command line that are not about other models and images, under the same
            names: ``cells=9, method=["auto", "gradcam"], norm="l2", eps=0.5``. Without ``eps`` pictures stay clean.

    Raises:
        RequestError: it cannot be carried out as asked.
    """
    check_in_memory(options, IN_MEMORY, LocaliseConfig, "localise")
    models = _named(model, name)
    if options.get("norm") and not options.get("eps"):
        raise RequestError("eps is missing: give the radius of the norm, 0.5 or 8/255, say, or leave norm out")
    game_of_masks = {} if masks is None else {"game": "masks"}
    config = configured(LocaliseConfig, {"dataset": "memory", "figures": False} | game_of_masks | options)
    truth = None if masks is None else _read_masks(masks, len(images))
    if truth is not None and labels is None:
        labels = [_most_common(mask) for mask in truth]
    data = read_pairs(images, labels, channels=config.channels or 3)
    with ExitStack() as modes:
        for one in models.values():
            modes.enter_context(in_evaluation_mode(one))
        loaded = [load_one(one, called) for called, one in models.items()]
        config = config.model_copy(update={"device": device_of(config, loaded[0])})
        subset = EvalSubset.of(InMemory(*data, classes=classes_of(loaded[0], data[0], config.device), masks=truth))
        game = check_play(config, subset, [LoadedModel(one) for one in loaded])
        with Store(kinds=[ScoreRow]) as store:
            for _ in watch(play(game, store), game.work, Console(stderr=True) if progress else None):
                pass
            scores = store.select(ScoreRow)
    return Localisation(
        rows=as_table(LocalisationRow, summarise_scores(game, scores)),
        cells=as_table(ScoreRow, scores),
        comparisons=as_table(ComparisonRow, compare_scores(game, scores)),
        notes=game.notes,
    )


def _read_masks(masks: Array, count: int) -> Tensor:
    found = torch.as_tensor(masks)
    if found.dim() != 3 or len(found) != count or found.is_floating_point() or found.dtype == torch.bool:
        raise RequestError(
            f"masks must be whole numbers of shape (image, height, width), one for each of {count} images, got "
            f"{found.dtype} of shape {tuple(found.shape)}: give the class of each pixel"
        )
    return found.long()


def _most_common(mask: Tensor) -> int:
    """The class that most pixels of a mask have; 0 where none has any."""
    shown = mask[mask >= 0]
    return int(shown.mode().values) if len(shown) else 0


def _named(
    model: AnyModel | str | Sequence[str] | Mapping[str, AnyModel | str], name: str | None
) -> dict[str | None, AnyModel | str]:
    """Models by name; that of a single one may be left open."""
    if isinstance(model, Mapping):
        if not model:
            raise RequestError("model is empty: give one, or several by name")
        return {**model}
    if isinstance(model, list | tuple):
        return {one: one for one in model}
    return {name: model}
