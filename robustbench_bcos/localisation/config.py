"""What ``localise`` is asked to do: the options of a run that it shares, and its own. Read without torch."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from robustbench_bcos.bench.config import EXPLANATIONS, RunConfig
from robustbench_bcos.bench.values import Listed, Positive, Several
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.options import Option, parameters
from robustbench_bcos.explanations import method_names
from robustbench_bcos.localisation import GAMES, PROTOCOLS
from robustbench_bcos.localisation.mask_classes import read_mask_classes

Budget = Literal["picture", "grid"]
Condition = Literal["clean", "attack", "noise"]

GAME = "The game"

OPTIONS = (
    *("game", "protocol", "cells", "grids", "own_grids", "min_confidence", "smooth", "condition", "budget"),
    "mask_classes",
    *("norm", "eps", "threat", "attack", "steps", "step_size", "loss", "restarts", "queries", "option"),
    *("model", "weights", "architecture", "encoding", "argument", "ema", "zoo"),
    *("dataset", "data_dir", "download", "limit", "resize", "crop", "interpolation", "image_list", "channels"),
    *("classes", "templates"),
    *("method", "figures", "figure_format", "batch_size", "device", "threads", "seed", "plugin"),
    *("jobs", "executor", "job_minutes", "slurm"),
)
"""Fields that are options of the verb; those of a run that it does not take have their defaults."""

SINGLE = ("attack", "steps", "loss", "restarts")
"""Of which one value is taken, where a run takes several."""


def _odd(smooth: int | None) -> int | None:
    if smooth is not None and smooth % 2 == 0:
        raise RequestError(f"smooth {smooth} must be odd, so that a window has a middle: give {smooth - 1}, say")
    return smooth


def _cells(cells: int) -> int:
    if cells not in (4, 9):
        raise RequestError(f"cells {cells} must be 4 or 9: a grid is 2x2 or 3x3 images")
    return cells


def _readable(file: Path | None) -> Path | None:
    if file is not None:
        read_mask_classes(file)
    return file


class LocaliseConfig(RunConfig):
    """A game, the models and methods that play it, and the attack on its pictures."""

    of_goals = ("confidence_band",)

    game: Annotated[
        str, Option(help="Which pictures, and what is measured on them: {names}.", panel=GAME, names=lambda: GAMES)
    ] = "grid"
    protocol: Annotated[
        str,
        Option(
            help="How a map of a grid becomes a score: {names}.",
            panel=GAME,
            names=lambda: PROTOCOLS,
            of="grid",
        ),
    ] = "ours"
    cells: Annotated[int, Option(help="Images in a grid, 4 or 9.", panel=GAME, of="grid"), AfterValidator(_cells)] = 4
    grids: Annotated[Positive, Option(help="Grids, or other pictures of the game, at most.", panel=GAME)] = 250
    own_grids: Annotated[
        bool,
        Option(
            help="Each model has grids of its own, of the images that it classifies correctly; models cannot be "
            "compared pair by pair then.",
            panel=GAME,
            of="grid",
        ),
    ] = False
    min_confidence: Annotated[
        float,
        Field(ge=0, le=1),
        Option(help="Confidence that a model must have in the class of an image of a grid.", panel=GAME, of="grid"),
    ] = 0.5
    smooth: Annotated[
        Positive | None,
        Option(
            help="Side of the smoothing window, in pixels; 1 for none.",
            panel=GAME,
            default="as the protocol says: 15/224 of a cell's side",
            of="grid",
        ),
        AfterValidator(_odd),
    ] = None
    mask_classes: Annotated[
        Path | None,
        Option(
            help="JSON file that says which output of the models each class of the masks is: "
            '{"cat": 281, "dog": [151, 207], "person": null}; of several, that of the largest logit, and null for '
            "objects to leave out.",
            panel=GAME,
            default="masks and models have the same classes",
            of="masks",
        ),
        AfterValidator(_readable),
    ] = None
    budget: Annotated[
        Budget,
        Option(
            help="What epsilon is for: picture, each image of a grid is attacked by itself; grid, the whole grid is.",
            panel=GAME,
            of="grid",
        ),
    ] = "picture"
    condition: Annotated[
        Several[Condition],
        Option(
            help="Pictures as they are, attacked, and with noise of the same size: {names}.",
            panel=GAME,
            default="all of them where there is a radius, and clean where there is none",
        ),
    ] = ()
    method: Annotated[
        Listed[str],
        Option(
            help="Explanation methods: {names}; auto is dynamic_weights for B-cos networks and input_x_gradient for "
            "others.",
            panel=EXPLANATIONS,
            names=method_names,
        ),
    ] = ("auto",)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What was asked for, or all; clean pictures alone where no radius goes without saying."""
        if self.condition:
            return tuple(dict.fromkeys(self.condition))
        return get_args(Condition) if self._has_radius else ("clean",)

    @property
    def attacked(self) -> bool:
        """Whether anything is attacked; the size of noise is that of an attack."""
        return self.conditions != ("clean",)

    @property
    def _has_radius(self) -> bool:
        try:
            return bool(self.threats)
        except RequestError:
            # What was asked for by name is missed; what was not need not be there.
            if self.norm:
                raise
            return False


def check_game(config: LocaliseConfig) -> None:
    """Whether the game reads all options that were given, and can be played with them.

    Raises:
        RequestError: one belongs to another game, or the game refuses it.
    """
    for name, parameter in parameters(type(config)).items():
        game = parameter.option.of
        given = name in config.model_fields_set and getattr(config, name) != parameter.field.default
        if given and game not in ("", config.game):
            raise RequestError(f"{name} is an option of game {game}, and the game is {config.game}: leave it out")
    GAMES[config.game].check(config)
