"""The grid pointing game (Böhle et al., 2021; Rao et al., 2022)."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.text import counted
from robustbench_bcos.core.types import Tensor
from robustbench_bcos.localisation import GAMES, PROTOCOLS
from robustbench_bcos.localisation.config import LocaliseConfig
from robustbench_bcos.localisation.game import AbstractGame, Explainer, Scores, TargetMaps
from robustbench_bcos.localisation.protocol import SHARE, Candidates, deal
from robustbench_bcos.localisation.scene import Box, PerTarget, Scene, Scenes, Unit
from robustbench_bcos.localisation.scoring import cells_of

if TYPE_CHECKING:
    from robustbench_bcos.data.subset import EvalSubset
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

    @classmethod
    def check(cls, config: LocaliseConfig) -> None:
        """Whole grids are attacked where models are shown them."""
        if not PROTOCOLS[config.protocol].whole and config.budget == "grid":
            raise RequestError(
                f"budget grid perturbs whole grids, which protocol {config.protocol} shows to no model: leave out "
                "budget"
            )

    def scenes(self, setting: "Setting", model: str) -> Scenes:
        """Grids of images that all models classify correctly and confidently; an image is in one grid at most."""
        config, subset = self.config, setting.subset
        classes = len(set(subset.dataset.labels))
        if classes < config.cells:
            fewer = "choose cells 4, or other images" if config.cells == 9 and classes >= 4 else "choose other images"
            raise RequestError(
                f"a grid of {config.cells} cells needs images of as many classes, and {subset.dataset.name} has images "
                f"of {classes}: {fewer}"
            )
        models = (model,) if config.own_grids else setting.names
        sure = {name: setting.confidences(name) > config.min_confidence for name in models}
        right = torch.stack(list(sure.values())).all(dim=0)
        candidates = _candidates(subset, right, setting.confidences(models[0]))
        dealer = self.protocol.deal if config.own_grids else deal
        dealt = dealer(candidates, config.cells, config.seed)
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

        note = f"{found}; {counted(len(grids), 'grid')} of {config.cells}, no image in two"
        if len(dealt) > len(grids):
            note += f" ({len(dealt)} are possible)"
        return Scenes(count=len(grids), make=make, notes=(f"{note}.",))

    def scores(self, maps: TargetMaps, scene: Scene) -> Scores:
        """As the protocol says."""
        return self.protocol.scores(maps, scene.views, self.kernel(scene))

    def floors(self, scene: Scene) -> Mapping[str, PerTarget]:
        """One over the number of cells."""
        return {SHARE: torch.full((len(scene.targets),), 1 / len(scene.targets))}

    def shown(self, scene: Scene) -> Tensor:
        """As the protocol says."""
        return self.protocol.shown(scene.picture, scene.views)

    def maps(self, explainer: Explainer, pictures: Tensor, targets: Tensor, scene: Scene) -> Tensor:
        """As the protocol says."""
        return self.protocol.maps(explainer, pictures, targets, scene.views)

    @property
    def protocol_name(self) -> str:
        """The protocol's."""
        return self.protocol.name

    def kernel(self, scene: Scene) -> int:
        """Side of the smoothing window."""
        return self.config.smooth or self.protocol.kernel(scene.views[0].height)

    def _scene(self, setting: "Setting", number: int, places: tuple[int, ...]) -> Scene:
        from robustbench_bcos.data.subset import EvalSubset

        chosen = tuple(setting.subset.indices[place] for place in places)
        images, labels, indices = EvalSubset(setting.subset.dataset, chosen).batch(0, len(chosen))
        _, channels, height, width = images.shape
        cells = cells_of(self.protocol, self.side, height, width)
        picture = images.new_empty(channels, self.side * height, self.side * width)
        regions = torch.zeros(len(cells), *picture.shape[1:], dtype=torch.bool)
        for cell, image, region in zip(cells, images, regions, strict=True):
            cell.cut(picture).copy_(image)
            cell.cut(region).fill_(True)
        whole = Unit(Box.around(picture), tuple(range(len(cells))))
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


def _candidates(subset: "EvalSubset", right: Tensor, confidences: Tensor) -> Candidates:
    """The images that may be used."""
    found: dict[int, list[tuple[int, float]]] = defaultdict(list)
    columns = zip(subset.indices, right.tolist(), confidences.tolist(), strict=True)
    for place, (index, usable, confidence) in enumerate(columns):
        if usable:
            found[subset.dataset.labels[index]].append((place, confidence))
    return found
