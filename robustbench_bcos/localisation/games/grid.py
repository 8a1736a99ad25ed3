"""The grid pointing game (Böhle et al., 2021; Rao et al., 2022)."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import final

import torch

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import generator
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.localisation import GAMES, PROTOCOLS
from robustbench_bcos.localisation.config import LocaliseConfig
from robustbench_bcos.localisation.game import AbstractGame, Scores, TargetMaps
from robustbench_bcos.localisation.protocol import SHARE
from robustbench_bcos.localisation.scene import Box, PerTarget, Scene, Scenes, Unit
from robustbench_bcos.localisation.setting import Setting


@final
@GAMES.registered("grid")
class GridPointing(AbstractGame):
    """Images of distinct classes side by side; the map of each class should lie in the cell of its image."""

    measures = (SHARE,)
    unit = "grid"

    def __init__(self, config: LocaliseConfig) -> None:
        super().__init__(config)
        self.protocol = PROTOCOLS[config.protocol]
        self.side = math.isqrt(config.cells)

    def scenes(self, setting: Setting, model: str) -> Scenes:
        """Grids of images that all models classify correctly and confidently; an image is in one grid at most."""
        config, subset = self.config, setting.subset
        models = (model,) if config.own_grids else setting.names
        sure = {name: setting.confidences(name) > config.min_confidence for name in models}
        right = torch.stack(list(sure.values())).all(dim=0)
        dealt = deal(subset_classes(subset.indices, subset.dataset.labels, right), config.cells, config.seed)
        counts = ", ".join(f"{name} {int(flags.sum())}" for name, flags in sure.items())
        whose = f"model {model}" if config.own_grids else "all models" if len(models) > 1 else f"model {models[0]}"
        found = (
            f"{int(right.sum())} of {len(subset)} images are classified correctly by {whose} with confidence above "
            f"{config.min_confidence:g} ({counts})"
        )
        if not dealt:
            raise RequestError(
                f"no grid of {config.cells} distinct classes can be made: {found}; give more images, or a lower "
                "min_confidence, or own_grids"
            )
        grids = dealt[: config.grids]

        def make(number: int) -> Scene:
            return self._scene(setting, number, grids[number])

        note = f"{found}; {len(grids)} grids of {config.cells}, no image in two"
        if len(dealt) > len(grids):
            note += f" ({len(dealt)} are possible)"
        return Scenes(count=len(grids), make=make, notes=(f"{note}.",))

    def scores(self, maps: TargetMaps, scene: Scene) -> Scores:
        """As the protocol says."""
        return self.protocol.scores(maps, scene.views, self.kernel(scene))

    def floors(self, scene: Scene) -> Mapping[str, PerTarget]:
        """One over the number of cells."""
        return {SHARE: torch.full((len(scene.targets),), 1 / len(scene.targets))}

    @property
    def protocol_name(self) -> str:
        """The protocol's."""
        return self.protocol.name

    def kernel(self, scene: Scene) -> int:
        """Side of the smoothing window."""
        return self.config.smooth or self.protocol.kernel(scene.views[0].height)

    def _scene(self, setting: Setting, number: int, places: tuple[int, ...]) -> Scene:
        chosen = tuple(setting.subset.indices[place] for place in places)
        images, labels, indices = EvalSubset(setting.subset.dataset, chosen).batch(0, len(chosen))
        _, channels, height, width = images.shape
        cells = self.boxes(height, width)
        picture = images.new_empty(channels, self.side * height, self.side * width)
        regions = torch.zeros(len(cells), *picture.shape[1:], dtype=torch.bool)
        for cell, image, region in zip(cells, images, regions, strict=True):
            cell.cut(picture).copy_(image)
            cell.cut(region).fill_(True)
        whole = Unit(Box(0, 0, *picture.shape[1:]), tuple(range(len(cells))))
        by_image = tuple(Unit(cell, (position,)) for position, cell in enumerate(cells))
        return Scene(
            number=number,
            picture=picture,
            targets=tuple(labels.tolist()),
            images=indices,
            regions=regions,
            valid=torch.ones(picture.shape[1:], dtype=torch.bool),
            views=cells,
            units=by_image if self.config.budget == "picture" else (whole,),
        )

    def boxes(self, height: int, width: int) -> tuple[Box, ...]:
        """Where each cell is, in the order of the images."""
        places = [(row, column) for row in range(self.side) for column in range(self.side)]
        if self.protocol.column_major:
            places = [(row, column) for column, row in places]
        return tuple(Box(row * height, column * width, height, width) for row, column in places)


def subset_classes(indices: tuple[int, ...], labels: list[int], right: torch.Tensor) -> dict[int, list[int]]:
    """Places in the subset of the images that may be used, by class."""
    found: dict[int, list[int]] = defaultdict(list)
    for place, (index, usable) in enumerate(zip(indices, right.tolist(), strict=True)):
        if usable:
            found[labels[index]].append(place)
    return found


def deal(by_class: Mapping[int, list[int]], cells: int, seed: int) -> list[tuple[int, ...]]:
    """As many grids of distinct classes as there are images for, each image in one grid at most.

    Classes with most images left come first, those with as many in random order, so that no class runs out early.

    Args:
        by_class: places of images, by class.
        cells: of a grid.
        seed: of the order of images and cells.
    """
    left = {label: _shuffled(places, seed, "images", label) for label, places in sorted(by_class.items())}
    grids: list[tuple[int, ...]] = []
    while len(able := [label for label, places in left.items() if places]) >= cells:
        drawn = _shuffled(able, seed, "classes", len(grids))
        chosen = sorted(drawn, key=lambda label: len(left[label]), reverse=True)[:cells]
        grids.append(tuple(left[label].pop() for label in _shuffled(chosen, seed, "cells", len(grids))))
    return grids


def _shuffled(values: list[int], *key: int | str) -> list[int]:
    order = torch.randperm(len(values), generator=generator(*key)).tolist()
    return [values[place] for place in order]
