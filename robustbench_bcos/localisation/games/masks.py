"""Maps against masks: where in a picture its objects are, said pixel by pixel."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, final

from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import by
from robustbench_bcos.core.maps import at_mask, energies
from robustbench_bcos.core.text import counted
from robustbench_bcos.core.types import Tensor
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import BACKGROUND, VOID
from robustbench_bcos.data.opening import dataset_class, is_dataset
from robustbench_bcos.localisation import GAMES
from robustbench_bcos.localisation.config import LocaliseConfig
from robustbench_bcos.localisation.game import AbstractGame, Scores, TargetMaps
from robustbench_bcos.localisation.mask_classes import Outputs, outputs_of
from robustbench_bcos.localisation.masks import (
    AVERAGE_PRECISION,
    ENERGY,
    ENERGY_RATIO,
    IOU,
    MEASURES,
    areas,
    average_precisions,
    best_threshold,
    centre_maps,
    iou_curves,
    random_maps,
)
from robustbench_bcos.localisation.scene import Box, PerTarget, Scene, Scenes, Unit

if TYPE_CHECKING:
    from robustbench_bcos.localisation.setting import Setting

RANDOM, CENTRE = "random map", "centre"
"""Controls, named where methods are."""


@final
@GAMES.registered("masks")
class MaskPointing(AbstractGame):
    """Pictures of a dataset with masks; one map is made of each class that a picture shows.

    The threshold of intersection over union is fixed on clean maps of the other half of the pictures: those of even
    number on those of odd number, and the other way round.

    Attributes:
        thresholds: position of the threshold that pictures of even, and of odd number are scored with.
    """

    measures = MEASURES
    unit = "image"
    sized = False
    same_classes = False
    fits = True

    def __init__(self, config: LocaliseConfig) -> None:
        super().__init__(config)
        self.thresholds: tuple[int | None, int | None] = (None, None)

    @classmethod
    def check(cls, config: LocaliseConfig) -> None:
        """Datasets say whether they have masks; images in memory are of none."""
        if is_dataset(config.dataset) and not dataset_class(config.dataset.partition(":")[0]).has_masks:
            raise _without_masks(config.dataset)

    def scenes(self, setting: "Setting", model: str) -> Scenes:
        """The first images of the subset that show an object, the same for all models."""
        subset = setting.subset
        if not subset.dataset.has_masks:
            raise _without_masks(subset.dataset.name)
        outputs = outputs_of(setting, model)
        found: list[tuple[int, tuple[int, ...]]] = []
        digest = hashlib.sha256(json.dumps(sorted(outputs.items())).encode())
        looked = without = 0
        for index in subset.indices:
            if len(found) == self.config.grids:
                break
            looked += 1
            mask = subset.dataset.mask(index)
            shown = [label for label in mask.unique().tolist() if label not in (BACKGROUND, VOID) and outputs[label]]
            if shown:
                found.append((index, tuple(shown)))
                digest.update(mask.numpy().astype("<i2").tobytes())
            else:
                without += 1
        if not found:
            raise RequestError(
                f"none of the {looked} masks of {subset.dataset.name} shows an object that model {model!r} has a class "
                "for: give more images, or other mask_classes"
            )

        def make(number: int) -> Scene:
            return _scene(setting, model, outputs, number, *found[number])

        objects = counted(sum(len(shown) for _, shown in found), "object")
        notes = [f"{counted(len(found), 'image')} with {objects}, a map for each."]
        size, made_for = (subset.image_shape[1], subset.image_shape[2]), setting.model(model).image_size
        if made_for is not None and made_for != size:
            notes.append(f"Models made for {by(made_for)} pixels are shown {by(size)}.")
        if without:
            notes.append(
                f"Left out: {counted(without, 'image')} whose masks show no object that models have a class for."
            )
        return Scenes(count=len(found), make=make, digest=digest.hexdigest(), notes=tuple(notes))

    def scores(self, maps: TargetMaps, scene: Scene) -> Scores:
        """All measures at the resolution of the mask."""
        regions, valid = scene.regions, scene.valid
        sized = at_mask(maps, regions.shape[1:])
        energy, empty = energies(sized, regions, valid)
        threshold = self.thresholds[scene.number % 2]
        iou = torch.full_like(energy, torch.nan)
        if threshold is not None:
            iou = iou_curves(sized, regions, valid)[:, threshold]
        values = {
            ENERGY: energy,
            ENERGY_RATIO: energy / areas(regions, valid),
            AVERAGE_PRECISION: average_precisions(sized, regions, valid),
            IOU: iou,
        }
        return Scores(values=values, empty=empty)

    def floors(self, scene: Scene) -> Mapping[str, PerTarget]:
        """The object's share of the area: of evidence, of pixels in any order, of the union if all are shown."""
        area = areas(scene.regions, scene.valid)
        return dict.fromkeys(MEASURES, area) | {ENERGY_RATIO: torch.ones_like(area)}

    def ceilings(self, scene: Scene) -> Mapping[str, PerTarget]:
        """All evidence on the object."""
        area = areas(scene.regions, scene.valid)
        return dict.fromkeys(MEASURES, torch.ones_like(area)) | {ENERGY_RATIO: 1 / area}

    @property
    def controls(self) -> Mapping[str, Callable[[Scene], TargetMaps]]:
        """A random map, and the middle of the picture."""
        return {
            RANDOM: lambda scene: random_maps(*_shape(scene), self.config.seed, scene.images[0]),
            CENTRE: lambda scene: centre_maps(*_shape(scene)),
        }

    def fitted(self, explained: Iterable[tuple[Scene, TargetMaps]]) -> "MaskPointing":
        """With the thresholds that are best on the other half."""
        curves: tuple[list[Tensor], list[Tensor]] = ([], [])
        for scene, maps in explained:
            sized = at_mask(maps, scene.regions.shape[1:])
            curves[scene.number % 2].append(iou_curves(sized, scene.regions, scene.valid))
        even, odd = (best_threshold(torch.cat(half)) if half else None for half in curves)
        game = copy.copy(self)
        game.thresholds = (odd, even)
        return game


def _shape(scene: Scene) -> "tuple[int, torch.Size]":
    """How many maps a scene needs, and of which size."""
    return len(scene.targets), scene.regions.shape[1:]


def _without_masks(dataset: str) -> RequestError:
    have = ", ".join(sorted(name for name in DATASETS.packaged if DATASETS[name].has_masks))
    return RequestError(f"game masks needs a dataset with masks, and {dataset} has none: choose from {have}")


def _scene(setting: "Setting", model: str, outputs: Outputs, number: int, index: int, labels: tuple[int, ...]) -> Scene:
    from robustbench_bcos.data.subset import EvalSubset

    dataset = setting.subset.dataset
    picture = EvalSubset(dataset, (index,)).batch(0, 1).images[0]
    mask = dataset.mask(index)
    whole = Box.around(picture)
    return Scene(
        number=number,
        picture=picture,
        targets=_targets(setting, model, picture, [outputs[label] for label in labels]),
        images=(index,) * len(labels),
        regions=torch.stack([mask == label for label in labels]),
        valid=mask != VOID,
        views=(whole,) * len(labels),
        units=(Unit(whole, tuple(range(len(labels)))),),
    )


def _targets(setting: "Setting", model: str, picture: Tensor, outputs: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The output to explain for each object: of several that stand for its class, that of the largest clean logit."""
    if all(len(some) == 1 for some in outputs):
        return tuple(some[0] for some in outputs)
    with torch.no_grad():
        logits = setting.model(model).classifier(picture[None].to(setting.device))[0].cpu()
    return tuple(max(some, key=lambda output: float(logits[output])) for some in outputs)
