"""How similar the maps of each cell's images are before and after its attack, and pictures of some."""

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

from robustbench_bcos.bench.adversarials import from_bytes
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.failures import failures_named
from robustbench_bcos.bench.judge import Verdicts, judge
from robustbench_bcos.bench.pictures import Picture
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.request import Request, explains_its_own
from robustbench_bcos.bench.rows import EXPLAINED_CLASSES, PictureRow, Row, SimilarityRow
from robustbench_bcos.bench.similarity import (
    Similarity,
    compare_explanations,
    explain_classes,
    make_views,
    noise_of_size,
)
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import AttackTarget, in_space, make_target
from robustbench_bcos.bench.trial import search_and_judge
from robustbench_bcos.bench.unfinished import Unfinished
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.rounding import OF_MAPS, significant
from robustbench_bcos.core.types import Images
from robustbench_bcos.data.subset import Batch, EvalSubset
from robustbench_bcos.explanations.explanation import Explanation, method_for
from robustbench_bcos.model_zoo.models import Model

PICTURES = 6
"""Pictures kept of a cell: the first so many images, so many that its attack breaks and so many that stay robust."""

PREDICTED = EXPLAINED_CLASSES.index("predicted")


def explain_cells(
    request: Request, model: Model, cells: Sequence[Cell], known: Store, size: BatchSize
) -> Iterator[Progress]:
    """Explain what is not known yet: clean images once, adversarial examples for each cell."""
    explained = request.explained
    if explained is None:
        return
    others = others_of_class(explained)
    done = {cell.key: known.explained(cell) for cell in cells}
    correct = {image: row.correct for image, row in known.clean(model.name).items()}
    for attempt in size.over(len(explained)):
        indices = explained.indices[attempt.start : attempt.stop]
        with attempt as part, failures_named(model, explained.dataset, indices, cells[0].work):
            batch = explained.batch(part.start, part.stop)
            pending = [cell for cell in cells if not done[cell.key].issuperset(batch.indices)]
            if pending:
                compared = others.batch(part.start, part.stop)
                explainer = _Explainer(request, model, pending[0].space, batch, compared)
            for cell in cells:
                rows: list[Row] = []
                if cell in pending:
                    unfinished = Unfinished(known, cell, "explanation", batch_size=len(batch.indices))
                    similarities, pictures = yield from explainer.explain(cell, unfinished)
                    chosen = _choose(pictures, known.pictured(cell), correct, request.always_pictured)
                    rows += [*similarities, *(PictureRow.of(cell.key, one, broken=broken) for one, broken in chosen)]
                    rows += [*unfinished.done(), unfinished.timing(len(batch.indices))]
                yield Progress(cell=cell, images=len(batch.indices), rows=tuple(rows))


def others_of_class(images: EvalSubset) -> EvalSubset:
    """For each image the next one of its class, the first after the last; an only one is its own."""
    labels = [images.dataset.labels[index] for index in images.indices]
    same = {label: [i for i, other in zip(images.indices, labels, strict=True) if other == label] for label in labels}
    following = {label: islice(cycle(indices), 1, None) for label, indices in same.items()}
    return EvalSubset(images.dataset, tuple(next(following[label]) for label in labels))


class _Explainer:
    """The explanations of one batch: of its clean images, and of the other images they are compared with."""

    def __init__(self, request: Request, model: Model, space: str, batch: Batch, others: Batch) -> None:
        self.model = model
        self.seed = request.config.seed
        self.method = method_for(model.classifier, request.config.explanation)
        self.batch = batch
        self.others = others
        self.raw, self.labels, _ = batch.on(request.device)
        self.classifier, _, self.images = in_space(model, self.raw, space)
        self.rng = PerImageRng.of(self.seed, batch.indices)
        self.clean = self._explain(self.images, self.rng)
        _, _, compared = in_space(model, others.on(request.device).images, space)
        self.other = self._explain(compared, PerImageRng.of(self.seed, others.indices))

    def explain(
        self, cell: Cell, unfinished: Unfinished
    ) -> Generator[Progress, None, tuple[list[SimilarityRow], list[tuple[Picture, bool]]]]:
        """Similarities of the clean maps to those of the attack and of both controls, and a picture of every image."""
        target = make_target(self.model, cell, self.raw, self.labels, seed=self.seed, indices=self.batch.indices)
        adversarials, verdicts = yield from self._attacked(cell, target, unfinished)
        noisy = noise_of_size(self.images, verdicts.sizes, cell.threat, self.rng)
        after = self._explain(adversarials, self.rng)
        compared = {"attack": after, "noise": self._explain(noisy, self.rng), "other": self.other}
        rows = [
            row
            for comparison, explanation in compared.items()
            for similarity in compare_explanations(self.clean, explanation, comparison)
            for row in self._rows(cell, similarity)
        ]
        pictures = self._pictures(adversarials, after, verdicts.success.tolist())
        return rows, pictures

    def _attacked(
        self, cell: Cell, target: AttackTarget, unfinished: Unfinished
    ) -> Generator[Progress, None, tuple[Images, Verdicts]]:
        """Adversarial examples of the full attack: those that are kept where they are its own, the others made now."""
        known: dict[int, bytes] = {}
        if explains_its_own(cell.attack):
            rows = (unfinished.known.adversarial(cell, index) for index in self.batch.indices)
            known = {place: row.pixels for place, row in enumerate(rows) if row is not None}
        others = torch.tensor([place for place in range(len(target.images)) if place not in known], dtype=torch.long)
        adversarials = target.images.clone()
        if len(others):
            part = target.select(others.to(adversarials.device))
            attack = cell.attack.with_loss(self.model.loss).in_full()
            steps = search_and_judge(attack, part, subject=cell.key, left=unfinished.left(part))
            judged = yield from unfinished.watch(steps, part)
            if not known:
                return judged.adversarials, judged.verdicts
            adversarials[others] = judged.adversarials
        adversarials[list(known)] = from_bytes(list(known.values()), adversarials.shape[1:]).to(adversarials)
        return adversarials, judge(target, adversarials, subject=cell.key)

    def _explain(self, images: Tensor, rng: PerImageRng) -> Explanation:
        return explain_classes(self.classifier, images, self.labels, self.method, rng)

    def _rows(self, cell: Cell, similarity: Similarity) -> Iterator[SimilarityRow]:
        columns = {name: values.tolist() for name, values in similarity.values.items()}
        changed = similarity.changed.tolist()
        for position, index in enumerate(self.batch.indices):
            alone = similarity.comparison == "other" and index == self.others.indices[position]
            yield SimilarityRow(
                cell=cell.key,
                image=index,
                comparison=similarity.comparison,
                explained_class=similarity.explained_class,
                changed=bool(changed[position]),
                values={
                    name: None if alone else significant(column[position], OF_MAPS) for name, column in columns.items()
                },
            )

    def _pictures(
        self, adversarials: Tensor, after: Explanation, success: Sequence[bool]
    ) -> list[tuple[Picture, bool]]:
        views = (
            make_views(images, explanation.of_target(PREDICTED), self.model.trained_with)
            for images, explanation in ((self.images, self.clean), (adversarials, after))
        )
        columns = zip(self.batch.indices, self.batch.labels.tolist(), *views, success, strict=True)
        return [
            (Picture(image=image, label=label, clean=clean, attacked=attacked), broken)
            for image, label, clean, attacked, broken in columns
        ]


def _choose(
    pictures: Sequence[tuple[Picture, bool]],
    pictured: Mapping[int, bool],
    correct: Mapping[int, bool],
    always: Collection[int],
) -> list[tuple[Picture, bool]]:
    """Pictures of images that are always pictured, and of the first images that are broken and that are robust."""
    batch = {picture.image for picture, _ in pictures}
    counts = Counter(broken for image, broken in pictured.items() if image not in batch)
    kept = []
    for picture, success in pictures:
        right = correct[picture.image]
        # Of an image that the model got wrong before, an attack breaks nothing.
        broken = success and right
        if picture.image in always or (right and counts[broken] < PICTURES):
            kept.append((picture, broken))
            counts[broken] += right
    return kept
