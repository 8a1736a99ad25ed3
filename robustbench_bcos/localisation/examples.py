"""A few pictures of a game with the maps of their targets, to be looked at."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustbench_bcos.localisation.playing import Player
from robustbench_bcos.localisation.setting import Play

Pixels = npt.NDArray[np.float32]

SHOWN = 6
"""Pictures of a game, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One target of a picture, explained in each condition by each method."""

    picture: Pixels
    """(height, width, channel) in [0, 1], clean."""
    region: npt.NDArray[np.bool_]
    """Where the evidence should be; it may have another resolution than the picture."""
    valid: npt.NDArray[np.bool_]
    label: int
    """The class that is explained."""
    maps: Mapping[tuple[str, str, str], Pixels]
    """By method, condition and threat; signed."""
    scores: Mapping[tuple[str, str, str], float]
    """Of the game's first measure; NaN where it is not defined."""


def examples(play: Play, model: str) -> Iterator[Example]:
    """The first pictures of a model, target by target. They are explained anew: tables keep no maps."""
    player = Player(play, play.setting.model(model))
    count = min(SHOWN, play.scenes[model].count)
    scenes = [play.scenes[model].make(number) for number in range(count)]
    found: list[list[dict[tuple[str, str, str], tuple[Pixels, float]]]] = [
        [{} for _ in scene.targets] for scene in scenes
    ]
    for variant in player.variants(scenes, count):
        for method in player.methods:
            maps = player.maps(scenes, variant.pictures, method)
            game = player.fitted_to(method, count)
            for place, scene in enumerate(scenes):
                scores = game.scores(maps[place].nan_to_num(0, 0, 0), scene).values[game.measures[0]]
                for target, (one, score) in enumerate(zip(maps[place], scores.tolist(), strict=True)):
                    key = method, variant.condition, variant.threat
                    found[place][target][key] = one.float().numpy(), score
    for scene, of_scene in zip(scenes, found, strict=True):
        for target, shown in enumerate(of_scene):
            yield Example(
                picture=scene.picture.permute(1, 2, 0).numpy(),
                region=scene.regions[target].numpy(),
                valid=scene.valid.numpy(),
                label=scene.targets[target],
                maps={key: one for key, (one, _) in shown.items()},
                scores={key: score for key, (_, score) in shown.items()},
            )
