"""A picture, and where in it the evidence for each of its classes is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Bool, Float, Tensor

Picture = Float[Tensor, "channel height width"]
Units = Float[Tensor, "unit channel unit_height unit_width"]
Regions = Bool[Tensor, "target height width"]
Area = Bool[Tensor, "height width"]
PerTarget = Float[Tensor, "target"]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def around(cls, picture: Tensor) -> "Box":
        """All of a picture."""
        height, width = picture.shape[-2:]
        return cls(top=0, left=0, height=height, width=width)

    def cut(self, pictures: Tensor) -> Tensor:
        """What is inside, of pictures or of maps: the last two axes are height and width."""
        return pictures[..., self.top : self.top + self.height, self.left : self.left + self.width]


class Unit(NamedTuple):
    """A part of a picture that is perturbed within a budget of its own."""

    box: Box
    positions: tuple[int, ...]
    """The targets whose classes the attack leads away from, by their position among the scene's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A picture with several classes, each of which has a region; one map is made of each of them."""

    number: int
    """By which its grid is called in every table, and its noise is drawn."""
    picture: Picture
    """In [0, 1]."""
    targets: tuple[int, ...]
    """The classes that are explained."""
    images: tuple[int, ...]
    """Position in the dataset of the image that each target comes from."""
    regions: Regions
    """Where the evidence for each target is."""
    valid: Area
    """What counts at all: a void pixel is in neither numerator nor denominator."""
    views: tuple[Box, ...]
    """What is shown to the model to ask whether it still predicts each target."""
    units: tuple[Unit, ...]
    """All of one size; together they may cover the picture."""

    def cut(self, picture: Picture) -> Units:
        """The units of a picture."""
        return torch.stack([unit.box.cut(picture) for unit in self.units])

    def pasted(self, units: Units) -> Picture:
        """The picture with other pixels in its units."""
        picture = self.picture.clone().to(units)
        for unit, pixels in zip(self.units, units, strict=True):
            unit.box.cut(picture).copy_(pixels)
        return picture


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The scenes of a model, made when they are needed: those of photographs would not fit into memory together."""

    count: int
    make: Callable[[int], Scene]
    """From the number of a scene; all pictures have one size."""
    digest: str = ""
    """Of what decides scores beside the images of the subset and the configuration, such as masks."""
    notes: tuple[str, ...] = ()
    """What a reader of a number must know of them, a sentence each."""
