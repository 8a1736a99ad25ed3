"""Attacks on explanations: another map for the same prediction, beside what an attack on the prediction does."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from robustbench_bcos.attacks import GOALS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.bench.adversarials import to_levels
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.failures import failures_named
from robustbench_bcos.bench.fooled import withstands
from robustbench_bcos.bench.fooling import Fooled, Fooling
from robustbench_bcos.bench.judge import measured_sizes
from robustbench_bcos.bench.pictures import Picture
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import FooledPictureRow, FooledRow, TimingRow
from robustbench_bcos.bench.similarity import make_views, noise_of_size
from robustbench_bcos.bench.stages.explain import others_of_class
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import make_target
from robustbench_bcos.bench.trial import attack_and_judge
from robustbench_bcos.core.maps import at_mask, energies
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.rounding import OF_MAPS, significant
from robustbench_bcos.core.types import Images, Labels, Maps
from robustbench_bcos.data.subset import EvalSubset, ShownObject
from robustbench_bcos.explanations.attachment import Explained, agrees_with_differences, attachable_method
from robustbench_bcos.explanations.explanation import explain, method_for
from robustbench_bcos.explanations.second_derivatives import Softened, has_rectifiers, is_curved
from robustbench_bcos.explanations.similarity import MEASURES
from robustbench_bcos.model_zoo.models import Model

GRAPHS = 4
"""Times the memory of a backward pass that a second derivative takes, about."""

TOGETHER = 8
"""Images whose maps are attacked at a time, at most. On CPUs the last digit depends on how many are in a batch, and
where maps bend sharply, as for B below 2, steps make it the second digit; so larger batches change nothing."""

PICTURED = 6
"""Images of a run that are pictured for each cell, method and goal, the first ones, unless all are to be saved."""

EXAMINED, AMONG = 10, 64
"""Maps that withstood which quick evidence searches again, the first so many among so many images of the run."""


def fool_maps(
    request: Request, model: Model, cells: Sequence[Cell], known: Store, size: BatchSize
) -> Iterator[Progress]:
    """Attack the explanations that have not been attacked yet, under every threat, by every method, to every goal."""
    assert request.fooled is not None
    pairs = (request.fooled, others_of_class(request.fooled), others_of_another_class(request.fooled))
    methods = dict.fromkeys(method_for(model.classifier, method) for method in request.config.methods)
    points = max(attachable_method(method).points for method in methods)
    size = BatchSize(max(1, min(TOGETHER, size.images // (GRAPHS * points))))
    correct = {image for image, row in known.clean(model.name).items() if row.correct}
    image = request.fooled.batch(0, 1).images.to(request.device)
    followed = {method: _derivatives(model, method, image, request.config.seed) for method in methods}
    for cell in request.moving_cells(cells):
        done = known.fooled(cell)
        for attempt in size.over(len(request.fooled)):
            indices = request.fooled.indices[attempt.start : attempt.stop]
            with attempt as part, failures_named(model, request.fooled.dataset, indices, cell.work):
                began = time.perf_counter()
                rows: list[FooledRow | FooledPictureRow] = []
                if not done.issuperset(indices):
                    right = [place for place in range(part.start, part.stop) if pairs[0].indices[place] in correct]
                    chosen = [EvalSubset(one.dataset, tuple(one.indices[place] for place in right)) for one in pairs]
                    for method in methods:
                        rows += _not_attacked(cell, method, request, set(indices) - correct, followed[method])
                        if right:
                            batch = _Batch.of(
                                request,
                                model,
                                cell=cell,
                                method=method,
                                derivatives=followed[method],
                                chosen=chosen,
                                batch_size=size.images,
                            )
                            rows += batch.rows(known)
                timing = TimingRow(cell=cell.key, work="fooling", images=0, seconds=time.perf_counter() - began)
                yield Progress(cell=cell, images=len(indices), rows=(*rows, timing) if rows else ())


def others_of_another_class(images: EvalSubset) -> EvalSubset:
    """For each image the next one of another class, the first after the last; an only class has itself."""
    labels = [images.dataset.labels[index] for index in images.indices]
    count = len(labels)
    following = []
    for place in range(count):
        ahead = [(place + step) % count for step in range(1, count)]
        following.append(next((other for other in ahead if labels[other] != labels[place]), place))
    return EvalSubset(images.dataset, tuple(images.indices[place] for place in following))


def _derivatives(model: Model, method: str, image: Images, seed: int) -> str:
    """Which second derivatives of a model an attack can follow."""
    softened, rng = has_rectifiers(model.classifier, image), PerImageRng.of(seed, [0])
    if not agrees_with_differences(Explained(model.classifier, method, softened=softened), image, rng):
        return "wrong"
    with Softened() if softened else nullcontext():
        curved = bool(is_curved(model.classifier, image, rng).all())
    return ("softplus" if softened else "own") if curved else "none"


def _not_attacked(cell: Cell, method: str, request: Request, images: set[int], derivatives: str) -> list[FooledRow]:
    nothing: dict[str, float | None] = dict.fromkeys(MEASURES)
    return [
        FooledRow(
            cell=cell.key,
            method=method,
            goal=goal,
            image=image,
            comparison="explanation",
            attacked=False,
            kept=False,
            size=0.0,
            left=None,
            degenerate_gradient=False,
            passes=0,
            derivatives=derivatives,
            values=nothing,
        )
        for goal in request.config.map_goals
        for image in sorted(images)
    ]


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Images of a cell that the model is right about, whose maps by one method are attacked."""

    request: Request
    model: Model
    cell: Cell
    fooling: Fooling
    derivatives: str
    images: Images
    classes: Labels
    same: Images
    """Another image of the class of each."""
    others: tuple[int, ...]
    """Its index; that of the image itself where there is no other."""
    different: Images
    """An image of another class."""
    rng: PerImageRng
    objects: Sequence[ShownObject | None]
    """Where each image shows its class."""
    objects_of_same: Sequence[ShownObject | None]
    """Where the other image of the class does."""

    @classmethod
    def of(
        cls,
        request: Request,
        model: Model,
        *,
        cell: Cell,
        method: str,
        derivatives: str,
        chosen: Sequence[EvalSubset],
        batch_size: int,
    ) -> "_Batch":
        """From the images, those of the same class and those of another."""
        (images, labels, indices), same, different = (one.batch(0, len(one)).on(request.device) for one in chosen)
        fooling = Fooling(
            model=model,
            method=method,
            softened=has_rectifiers(model.classifier, images[:1]),
            band=request.config.confidence_band,
            batch_size=batch_size,
        )
        return cls(
            request=request,
            model=model,
            cell=cell,
            fooling=fooling,
            derivatives=derivatives,
            images=images,
            classes=labels,
            same=same[0],
            others=tuple(same[2]),
            different=different[0],
            rng=PerImageRng.of(request.config.seed, indices),
            objects=chosen[0].objects(),
            objects_of_same=chosen[1].objects(),
        )

    def rows(self, known: Store) -> Iterator[FooledRow | FooledPictureRow]:
        """Of every goal: the attack, its controls, pictures, and what evidence finds.

        Args:
            known: what batches before this one have found.
        """
        clean = self._maps(self.images)
        attacked = self._attacked()
        for goal in self.request.config.map_goals:
            everything = torch.arange(len(self.images), device=self.images.device)
            found = self._fool(self.cell.attack, goal, everything, attacked)
            sizes = measured_sizes(self.cell.threat, self.images, found.pictures)
            controls = {
                "prediction": attacked,
                "noise": noise_of_size(self.images, sizes, self.cell.threat, self.rng),
                "other": self.same,
            }
            ours = list(self._compared(goal, "explanation", clean=clean, images=found.pictures, found=found))
            others = {
                name: list(self._compared(goal, name, clean=clean, images=images)) for name, images in controls.items()
            }
            yield from chain(ours, *others.values())
            yield from self._pictures(goal, found)
            limits = [row.values for row in others["other"]]
            stood = [place for place, row in enumerate(ours) if withstands(row, limits[place])]
            yield from self._evidence(goal, clean, self._examined(goal, stood, known), attacked)

    def _pictures(self, goal: str, found: Fooled) -> Iterator[FooledPictureRow]:
        """Of the first images of the run, or of all that are to be saved, where there is a candidate."""
        assert self.request.fooled is not None
        first = set(self.request.fooled.indices[: None if self.request.config.save_adversarials else PICTURED])
        shown = [place for place, index in enumerate(self.rng.indices) if index in first and found.kept[place]]
        if not shown:
            return
        places = torch.tensor(shown, device=self.images.device)
        classes, classifier, method = self.classes[places], self.model.classifier, self.fooling.method
        clean, attacked = (
            make_views(images[places], explain(classifier, images[places], classes, method), self.model.trained_with)
            for images in (self.images, found.pictures)
        )
        for place, before, after in zip(shown, clean, attacked, strict=True):
            index, label = self.rng.indices[place], int(self.classes[place])
            picture = Picture(image=index, label=label, clean=before, attacked=after)
            yield FooledPictureRow(
                cell=self.cell.key,
                method=method,
                goal=goal,
                image=index,
                label=label,
                views=picture.to_bytes(),
                levels=to_levels(found.pictures[place]),
            )

    def _examined(self, goal: str, stood: Sequence[int], known: Store) -> list[int]:
        """Which of the maps that withstood are searched again, whatever batches they came in."""
        assert self.request.fooled is not None
        kind, indices = self.request.config.evidence, self.request.fooled.indices
        if kind != "quick":
            return list(stood) if kind == "full" else []
        part = {index: place // AMONG for place, index in enumerate(indices)}
        method = self.fooling.method
        before = known.select(FooledRow, cell=self.cell.key, method=method, goal=goal, comparison="longer")
        counts = Counter(part[row.image] for row in before)
        examined = []
        for place in stood:
            counts[part[self.rng.indices[place]]] += 1
            if counts[part[self.rng.indices[place]]] <= EXAMINED:
                examined.append(place)
        return examined

    def _evidence(self, goal: str, clean: Tensor, examined: Sequence[int], attacked: Images) -> Iterator[FooledRow]:
        """Searches for maps that withstood: longer ones, and to another goal."""
        if not examined:
            return
        positions = torch.tensor(examined, device=self.images.device)
        searches = (
            ("longer", self.cell.attack.stronger(), goal),
            ("elsewhere", self.cell.attack, GOALS[goal].elsewhere),
        )
        for comparison, attack, where in searches:
            found = self._fool(attack, where, positions, attacked)
            yield from self._compared(
                goal, comparison, clean=clean[positions], images=found.pictures, found=found, positions=positions
            )

    def _fool(self, attack: AbstractAttack, goal: str, positions: Tensor, starts: Images) -> Fooled:
        target = self.fooling.target(
            goal,
            self.cell.threat,
            images=self.images[positions],
            labels=self.classes[positions],
            others=self.different[positions],
            rng=self.rng.select(positions.tolist()),
        )
        search = attack.with_loss(self.model.loss)
        return self.fooling.fool(search, target, subject=self.cell.key, starts=starts[positions])

    def _attacked(self) -> Images:
        """The cell's own attack in full: what it does to explanations."""
        target = make_target(
            self.model,
            self.cell,
            self.images,
            self.classes,
            seed=self.request.config.seed,
            indices=self.rng.indices,
        )
        attack = self.cell.attack.with_loss(self.model.loss).in_full()
        return attack_and_judge(attack, target, subject=self.cell.key, batch_size=self.fooling.batch_size).adversarials

    def _maps(self, images: Images) -> Tensor:
        """Maps of the classes that are predicted for the clean images."""
        return explain(self.model.classifier, images, self.classes, self.fooling.method).contributions

    @torch.no_grad()
    def _predicted(self, images: Images) -> Labels:
        return predicted_classes(self.model.classifier(images))

    def _compared(
        self,
        goal: str,
        comparison: str,
        *,
        clean: Tensor,
        images: Images,
        found: Fooled | None = None,
        positions: Tensor | None = None,
    ) -> Iterator[FooledRow]:
        """A row for each image, or for those at some positions."""
        places = torch.arange(len(self.images), device=images.device) if positions is None else positions
        classes = self.classes[places]
        maps = explain(self.model.classifier, images, classes, self.fooling.method).contributions
        values = {name: MEASURES[name](clean, maps).tolist() for name in MEASURES}
        kept = (self._predicted(images) == classes) if found is None else found.kept
        sizes = measured_sizes(self.cell.threat, self.images[places], images).tolist()
        indices = [self.rng.indices[place] for place in places.tolist()]
        objects = self.objects_of_same if comparison == "other" else self.objects
        energy = _energies(maps, [objects[place] for place in places.tolist()])
        energy_clean = _energies(clean, [self.objects[place] for place in places.tolist()])
        alone = {index for index, other in zip(self.rng.indices, self.others, strict=True) if index == other}
        for position, index in enumerate(indices):
            undefined = comparison == "other" and index in alone
            trace = None if found is None else found.trace
            yield FooledRow(
                cell=self.cell.key,
                method=self.fooling.method,
                goal=goal,
                image=index,
                comparison=comparison,
                attacked=True,
                kept=bool(kept[position]),
                size=significant(sizes[position]) or 0.0,
                left=None if found is None else significant(float(found.left[position])),
                degenerate_gradient=trace is not None and bool(trace.degenerate_gradient[position]),
                passes=0 if trace is None else int((trace.forward_passes + trace.backward_passes)[position]),
                derivatives=self.derivatives,
                values={
                    name: None if undefined else significant(column[position], OF_MAPS)
                    for name, column in values.items()
                },
                energy=None if undefined else energy[position],
                energy_clean=energy_clean[position],
            )


def _energies(maps: Maps, objects: Sequence[ShownObject | None]) -> list[float | None]:
    """Of each map, to as many digits as hold."""
    shares = (
        torch.nan if shown is None else energies(at_mask(one[None].cpu(), shown.valid.shape), *shown)[0]
        for one, shown in zip(maps, objects, strict=True)
    )
    return [significant(float(share), OF_MAPS) for share in shares]
