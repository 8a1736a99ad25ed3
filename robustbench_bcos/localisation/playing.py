"""Playing a game: pictures clean, attacked and with noise, explained by every method, and scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import final

import torch
from torch import Tensor, nn

from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.failures import failures_named
from robustbench_bcos.bench.fast_copy import is_pure
from robustbench_bcos.bench.progress import Step
from robustbench_bcos.bench.rows import Row
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.prediction import in_parts, predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.rounding import OF_MAPS, significant
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.localisation.attacked import perturb
from robustbench_bcos.localisation.game import AbstractGame, Scores, TargetMaps
from robustbench_bcos.localisation.rows import ScoreRow
from robustbench_bcos.localisation.scene import Box, Scene
from robustbench_bcos.localisation.setting import Play
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.layers import is_bcos
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.models import Model

CLEAN = "clean"

FITTED = 200
"""Clean pictures from which a game takes what it needs to know before it scores, at most."""


@final
@dataclass(frozen=True, kw_only=True)
class Played(Step):
    """Pictures of a model that are done: the model is the piece of work."""

    name: str

    @property
    def model(self) -> str:
        """The model's name."""
        return self.name

    key = subject = model


@dataclass(frozen=True, kw_only=True, eq=False)
class Variant:
    """The pictures of some scenes in one condition."""

    condition: str
    threat: str
    pictures: Sequence[Tensor]
    sizes: Sequence[Sequence[float]]
    """Of the perturbation of each unit of each scene."""


def play(game: Play, store: Store) -> Iterator[Played]:
    """Score what is not scored yet, model by model and batch by batch; each batch is written as a whole."""
    for name in game.setting.names:
        count = game.scenes[name].count
        if len(scored(store, name)) == count:
            yield Played(name=name, images=count)
            continue
        for played in play_some(game, store, name, range(count), batch_size(game, name)):
            store.add(*played.rows)
            yield played


def play_some(game: Play, known: Store, name: str, numbers: range, size: BatchSize) -> Iterator[Played]:
    """Score some pictures of a model, in batches; the rows are not written.

    Args:
        game: what is played.
        known: what is scored already.
        name: of the model.
        numbers: of the pictures, one after another.
        size: pictures of a batch, at most.
    """
    scenes, model, done = game.scenes[name], game.setting.model(name), scored(known, name)
    player = Player(game, model)
    for attempt in size.over(len(numbers)):
        some = numbers[attempt.start : attempt.stop]
        with attempt, failures_named(model, game.setting.subset.dataset, (), f"on pictures of {game.game.name}"):
            rows: tuple[Row, ...] = ()
            if not done.issuperset(some):
                rows = tuple(player.score([scenes.make(number) for number in some], size.images))
            yield Played(name=name, images=len(some), rows=rows)


def batch_size(game: Play, name: str) -> BatchSize:
    """How many pictures a model is shown at a time."""
    example = game.game.shown(game.scenes[name].make(0))[None].to(game.setting.device)
    return BatchSize.of(game.setting.model(name).attack_model, example, game.setting.config.batch_size)


def scored(store: Store, name: str) -> set[int]:
    """Numbers of the pictures of a model whose scores are known."""
    return {row.scene for row in store.select(ScoreRow, model=name)}


class Player:
    """One model, with its methods."""

    def __init__(self, play: Play, model: Model) -> None:
        self.play, self.game, self.setting, self.model = play, play.game, play.setting, model
        self.methods, self.cells = play.methods[model.name], play.cells[model.name]
        self.conditions = play.setting.config.conditions
        self._fitted: dict[str, AbstractGame] = {}

    def score(self, scenes: Sequence[Scene], batch_size: int) -> Iterator[ScoreRow]:
        """Rows of all conditions, methods, targets and measures."""
        limits = [(self.game.floors(scene), self.game.ceilings(scene)) for scene in scenes]
        for variant in self.variants(scenes, batch_size):
            kept = self._kept(scenes, variant.pictures, batch_size)
            for method, maps in self._explained(scenes, variant):
                game = self.fitted_to(method, batch_size)
                for place, scene in enumerate(scenes):
                    finite = maps[place].isfinite().flatten(1).all(dim=1)
                    scores = game.scores(maps[place].nan_to_num(0, 0, 0), scene)
                    sizes = variant.sizes[place]
                    for target in range(len(scene.targets)):
                        for measure in self.game.measures:
                            floor, ceiling = (limit[measure][target].item() for limit in limits[place])
                            score = scores.values[measure][target].item()
                            yield ScoreRow(
                                model=self.model.name,
                                method=method,
                                threat=variant.threat,
                                condition=variant.condition,
                                scene=scene.number,
                                target=target,
                                image=scene.images[target],
                                label=scene.targets[target],
                                measure=measure,
                                score=significant(score, OF_MAPS) if finite[target] else None,
                                floor=significant(floor),
                                ceiling=significant(ceiling),
                                outcome=_outcome(scores, target, finite=bool(finite[target])),
                                kept=kept[place][target],
                                size=significant(_size_at(scene, sizes, target)) or 0.0,
                            )

    def _explained(self, scenes: Sequence[Scene], variant: Variant) -> Iterator[tuple[str, Sequence[TargetMaps]]]:
        """Maps of each method and, beside those of clean pictures, of each control."""
        for method in self.methods:
            yield method, self.maps(scenes, variant.pictures, method)
        for name in self.game.controls if variant.condition == CLEAN else ():
            yield name, list(map(self.game.controls[name], scenes))

    def fitted_to(self, method: str, batch_size: int) -> AbstractGame:
        """The game, with what it takes from the clean maps of a method or control."""
        if not self.game.fits:
            return self.game
        if method not in self._fitted:
            self._fitted[method] = self.game.fitted(self._clean(method, batch_size))
        return self._fitted[method]

    def _clean(self, method: str, batch_size: int) -> Iterator[tuple[Scene, TargetMaps]]:
        """Clean scenes with finite maps."""
        found = self.play.scenes[self.model.name]
        for start in range(0, min(FITTED, found.count), batch_size):
            scenes = [found.make(number) for number in range(start, min(start + batch_size, FITTED, found.count))]
            if method in self.methods:
                maps = self.maps(scenes, [scene.picture for scene in scenes], method)
            else:
                maps = list(map(self.game.controls[method], scenes))
            yield from ((scene, some) for scene, some in zip(scenes, maps, strict=True) if some.isfinite().all())

    def variants(self, scenes: Sequence[Scene], batch_size: int) -> Iterator[Variant]:
        """The pictures in every condition."""
        if CLEAN in self.conditions:
            yield Variant(
                condition=CLEAN,
                threat="",
                pictures=[scene.picture for scene in scenes],
                sizes=[[0.0] * len(scene.units) for scene in scenes],
            )
        for cell in self.cells:
            # A unit is no larger than a picture, and as many units fit into memory as pictures.
            found = perturb(
                self.model,
                cell,
                scenes,
                seed=self.setting.config.seed,
                device=self.setting.device,
                batch_size=batch_size * len(scenes[0].units),
            )
            for condition, pictures in (("attack", found.attack), ("noise", found.noise)):
                if condition in self.conditions:
                    yield Variant(condition=condition, threat=str(cell.threat), pictures=pictures, sizes=found.sizes)

    def _kept(self, scenes: Sequence[Scene], pictures: Sequence[Tensor], batch_size: int) -> list[list[bool]]:
        """Whether the model predicts each target where it is shown its view alone."""
        asked = {(place, view) for place, scene in enumerate(scenes) for view in scene.views}
        predicted: dict[tuple[int, Box], int] = {}
        for _, alike in groupby(sorted(asked, key=_shape), key=_shape):
            some = list(alike)
            shown = torch.stack([view.cut(pictures[place]) for place, view in some]).to(self.setting.device)
            with torch.no_grad():
                classes = predicted_classes(in_parts(self.model.classifier, batch_size)(shown))
            predicted |= zip(some, classes.tolist(), strict=True)
        return [
            [predicted[place, view] == target for view, target in zip(scene.views, scene.targets, strict=True)]
            for place, scene in enumerate(scenes)
        ]

    @cached_property
    def _folded(self) -> nn.Module:
        return explained_copy(self.model)

    def maps(self, scenes: Sequence[Scene], pictures: Sequence[Tensor], method: str) -> list[Tensor]:
        """A map for each target of each scene."""
        rng = PerImageRng.of(self.setting.config.seed, [scene.number for scene in scenes]).fold_in("picture")
        asked = self.model.classifier if METHODS[method].of_modules else self._folded
        most = max(len(scene.targets) for scene in scenes)
        # Pictures with fewer targets are asked about their first ones again.
        targets = torch.tensor(
            [[*scene.targets, *[scene.targets[0]] * (most - len(scene.targets))] for scene in scenes]
        )
        shown = torch.stack([picture.to(self.setting.device) for picture in pictures])

        def explainer(images: Tensor, classes: Tensor) -> Tensor:
            return explain(asked, images, classes, method, rng=rng).contributions.detach()

        maps = self.game.maps(explainer, shown, targets, scenes[0]).cpu()
        return [maps[place, : len(scene.targets)] for place, scene in enumerate(scenes)]


def explained_copy(model: Model) -> nn.Module:
    """A classifier whose maps are the model's up to rounding, and which is faster.

    One that asks in other threads, as the copy for attacks may, would not know that it is being explained.
    """
    classifier = model.classifier
    # A gradient of conventional layers may jump where rounding moves a ReLU across its kink.
    if not (is_pure(classifier) and is_bcos(classifier)):
        return classifier
    # Not in channels_last, which is faster by 2 to 17 %: CPUs would add up in an order that depends on the batch. Here
    # they mostly do so only for a picture alone.
    return ImageClassifier(classifier.encoding, fold(classifier).network)


def _shape(shown: tuple[int, Box]) -> tuple[int, int]:
    _, view = shown
    return view.height, view.width


def _size_at(scene: Scene, sizes: Sequence[float], target: int) -> float:
    """Size of the perturbation of the unit that a target is in."""
    return next(size for unit, size in zip(scene.units, sizes, strict=True) if target in unit.positions)


def _outcome(scores: Scores, target: int, *, finite: bool) -> str:
    if not finite:
        return "not_finite"
    return "empty" if scores.empty[target] else "scored"
