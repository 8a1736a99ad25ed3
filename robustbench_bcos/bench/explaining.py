"""The stage that explains: for one model, how similar the maps of each cell's images are before and after its attack.

It reads and writes no store: what is known is handed to it, and it yields rows, batch by batch.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from torch import Tensor

from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.pictures import Picture
from robustbench_bcos.bench.similarity import (
    EXPLAINED_CLASSES,
    Similarity,
    attack_in_full,
    compare_explanations,
    explain_classes,
    make_views,
    noise_of_size,
)
from robustbench_bcos.bench.store import PictureRow, SimilarityRow
from robustbench_bcos.bench.target import build_attack, make_target
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.rounding import significant
from robustbench_bcos.data.subset import Batch, EvalSubset
from robustbench_bcos.explanations.explanation import Explanation, method_for
from robustbench_bcos.model_zoo.models import Model

PICTURES = 6
"""Pictures kept of a cell: the first so many images, so many that its attack breaks and so many that stay robust."""

PREDICTED = EXPLAINED_CLASSES.index("predicted")


@dataclass(kw_only=True)
class Known:
    """What is known of a cell; the stage adds to it what it yields."""

    explained: set[int] = field(default_factory=set)
    """Images whose maps have been compared."""
    pictured: dict[int, bool] = field(default_factory=dict)
    """Images with a picture, of those that were right when clean, and whether the attack breaks them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """A batch of one cell. Without rows where all of it was known."""

    cell: Cell
    images: int
    rows: list[SimilarityRow]
    pictures: list[PictureRow]
    seconds: float


def explain_cells(
    model: Model,
    cells: Sequence[Cell],
    explained: EvalSubset,
    known: Mapping[str, Known],
    size: BatchSize,
    *,
    method: str,
    seed: int,
    device: str,
    always_pictured: Collection[int],
) -> Iterator[Explained]:
    """Explain what is not known yet: clean images once, adversarial examples for each cell.

    Args:
        model: on its device.
        cells: of this model, all in one space.
        explained: the images.
        known: what is known of each cell, by its key.
        size: images that are worked on together.
        method: of explanation, or ``auto``.
        seed: of everything drawn.
        device: where the model is.
        always_pictured: images that are pictured whatever an attack does to them.
    """
    others = others_of_class(explained)
    for attempt in size.over(len(explained)):
        with attempt as part:
            batch = explained.batch(part.start, part.stop)
            count = len(batch.indices)
            pending = [cell for cell in cells if not known[cell.key].explained.issuperset(batch.indices)]
            if pending:
                compared = others.batch(part.start, part.stop)
                explainer = _Explainer(model, pending[0], batch, compared, method=method, seed=seed, device=device)
            for cell in cells:
                if cell not in pending:
                    yield Explained(cell=cell, images=count, rows=[], pictures=[], seconds=0.0)
                    continue
                began = time.perf_counter()
                rows, pictures = explainer.explain(cell)
                kept = [PictureRow(cell.key, *one) for one in _choose(pictures, known[cell.key], always_pictured)]
                known[cell.key].explained.update(batch.indices)
                seconds = time.perf_counter() - began
                yield Explained(cell=cell, images=count, rows=rows, pictures=kept, seconds=seconds)


def others_of_class(images: EvalSubset) -> EvalSubset:
    """For each image the next one of its class, the first after the last; an only one is its own."""
    labels = [images.dataset.labels[index] for index in images.indices]
    same = {label: [i for i, other in zip(images.indices, labels, strict=True) if other == label] for label in labels}
    following = {label: islice(cycle(indices), 1, None) for label, indices in same.items()}
    return EvalSubset(images.dataset, tuple(next(following[label]) for label in labels))


class _Explainer:
    """The explanations of one batch: of its clean images, and of the other images they are compared with."""

    def __init__(
        self, model: Model, cell: Cell, batch: Batch, others: Batch, *, method: str, seed: int, device: str
    ) -> None:
        self.model = model
        self.method = method_for(model.classifier, method)
        self.batch = batch
        self.others = others
        images, self.labels, _ = batch.on(device)
        self.rng = PerImageRng.of(seed, batch.indices)
        self.target = make_target(model, images, cell)
        self.clean = self._explain(self.target.images, self.rng)
        compared = make_target(model, others.on(device).images, cell)
        self.other = self._explain(compared.images, PerImageRng.of(seed, others.indices))

    def explain(self, cell: Cell) -> tuple[list[SimilarityRow], list[tuple[Picture, bool]]]:
        """How similar clean maps are to those of the attack and of both controls; pictures, and which are broken."""
        attack = build_attack(cell, cell.loss_of(self.model.loss))
        attacked = attack_in_full(attack, self.target, self.labels, cell, self.rng)
        noisy = noise_of_size(self.target.images, attacked.verdicts.sizes, NORMS[cell.norm], self.rng)
        after = self._explain(attacked.candidates, self.rng)
        compared = {"attack": after, "noise": self._explain(noisy, self.rng), "other": self.other}
        rows = [
            row
            for comparison, explanation in compared.items()
            for similarity in compare_explanations(self.clean, explanation, comparison)
            for row in self._rows(cell, similarity)
        ]
        return rows, self._pictures(attacked.candidates, after)

    def _explain(self, images: Tensor, rng: PerImageRng) -> Explanation:
        return explain_classes(self.target.classifier, images, self.labels, self.method, rng)

    def _rows(self, cell: Cell, similarity: Similarity) -> Iterator[SimilarityRow]:
        columns = {measure: values.tolist() for measure, values in similarity.values.items()}
        changed = similarity.changed.tolist()
        for position, index in enumerate(self.batch.indices):
            alone = similarity.comparison == "other" and index == self.others.indices[position]
            yield SimilarityRow(
                cell=cell.key,
                image=index,
                comparison=similarity.comparison,
                explained_class=similarity.explained_class,
                changed=bool(changed[position]),
                values=tuple(None if alone else significant(column[position]) for column in columns.values()),
            )

    def _pictures(self, adversarials: Tensor, after: Explanation) -> list[tuple[Picture, bool]]:
        correct = predicted_classes(self.clean.logits) == self.labels
        broken = correct & (predicted_classes(after.logits) != self.labels)
        views = (
            make_views(images, explanation.of_target(PREDICTED), self.model.loss)
            for images, explanation in ((self.target.images, self.clean), (adversarials, after))
        )
        columns = zip(self.batch.indices, self.batch.labels.tolist(), *views, broken.tolist(), strict=True)
        return [
            (Picture(image=image, label=label, clean=clean, attacked=attacked), is_broken)
            for image, label, clean, attacked, is_broken in columns
        ]


def _choose(
    pictures: Sequence[tuple[Picture, bool]], known: Known, always: Collection[int]
) -> list[tuple[Picture, bool]]:
    """Pictures of images that are always pictured, and of the first images that are broken and that are robust."""
    batch = {picture.image for picture, _ in pictures}
    counts = Counter(broken for image, broken in known.pictured.items() if image not in batch)
    kept = []
    for picture, broken in pictures:
        correct = not picture.wrong_before
        if picture.image in always or (correct and counts[broken] < PICTURES):
            kept.append((picture, broken))
            if correct:
                counts[broken] += 1
                known.pictured[picture.image] = broken
    return kept
