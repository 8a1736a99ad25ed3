"""What every game says: which scenes are dealt, and how a map scores on one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from robustbench_bcos.core.types import Bool, Float, Tensor
from robustbench_bcos.localisation.scene import PerTarget, Scene, Scenes

if TYPE_CHECKING:
    from robustbench_bcos.localisation.config import LocaliseConfig
    from robustbench_bcos.localisation.setting import Setting

PerTargetFlags = Bool[Tensor, "*target"]
TargetMaps = Float[Tensor, "target height width"]


Explainer = Callable[[Tensor, Tensor], Tensor]
"""From pictures and targets to maps."""


class Scores(NamedTuple):
    """How the maps of one scene score."""

    values: Mapping[str, PerTarget]
    """By measure; NaN where it is not defined."""
    empty: PerTargetFlags
    """Maps without any positive contribution where it counts: they point nowhere."""


class AbstractGame(ABC):
    """A kind of picture whose evidence has a known place; a new one is registered in ``GAMES``.

    Attributes:
        measures: names of what is measured, the most important first.
        unit: what one scene is called, in a sentence.
        sized: whether images of the dataset must have the size that models were made for.
        same_classes: whether outputs of models must be the classes of the dataset; a game that knows better says so.
        fits: whether scores depend on maps of other pictures, which :meth:`fitted` is shown first.
    """

    name: ClassVar[str]
    measures: ClassVar[tuple[str, ...]]
    unit: ClassVar[str] = "scene"
    sized: ClassVar[bool] = True
    same_classes: ClassVar[bool] = True
    fits: ClassVar[bool] = False

    def __init__(self, config: "LocaliseConfig") -> None:
        self.config = config

    @classmethod  # noqa: B027 (most can be played with anything)
    def check(cls, config: "LocaliseConfig") -> None:
        """Refuse, before torch is imported, what the game cannot be played with.

        Raises:
            RequestError: as a user reads it.
        """

    @abstractmethod
    def scenes(self, setting: "Setting", model: str) -> Scenes:
        """The scenes that a model is shown: the same for all, unless the user wants each to have its own.

        Raises:
            RequestError: there are too few images for one.
        """

    @abstractmethod
    def scores(self, maps: TargetMaps, scene: Scene) -> Scores:
        """The scores of a map for each target of a scene; the maps are finite."""

    def floors(self, scene: Scene) -> Mapping[str, PerTarget]:
        """What a map without information scores, by measure: by default the share of the area that a region has."""
        area = (scene.regions & scene.valid).flatten(1).sum(dim=1) / scene.valid.sum()
        return dict.fromkeys(self.measures, area)

    def ceilings(self, scene: Scene) -> Mapping[str, PerTarget]:
        """What an oracle scores under the same smoothing: a map that is 1 in its own region and 0 elsewhere."""
        return self.scores(scene.regions.float(), scene).values

    @property
    def controls(self) -> Mapping[str, Callable[[Scene], TargetMaps]]:
        """By name, what makes maps that know nothing of the picture; they are scored beside those of methods."""
        return {}

    def fitted(self, explained: Iterable[tuple[Scene, TargetMaps]]) -> "AbstractGame":
        """The game with what it takes from clean maps of one model and method.

        Args:
            explained: clean scenes, the first of the model's, and their maps; finite.
        """
        return self

    def shown(self, scene: Scene) -> Tensor:
        """What a model is shown of a scene at once."""
        return scene.picture

    def maps(self, explainer: Explainer, pictures: Tensor, targets: Tensor, scene: Scene) -> Tensor:
        """A map for each target of each picture, (picture, target, height, width).

        Args:
            explainer: gives the maps of pictures and targets.
            pictures: of several scenes.
            targets: classes to explain, (picture, target).
            scene: the first of them.
        """
        return explainer(pictures, targets)

    @property
    def protocol_name(self) -> str:
        """The definition of the score, where there are several."""
        return ""

    def kernel(self, scene: Scene) -> int | None:
        """Side of the window that the game smooths maps with; ``None`` where it does not."""
        return None
