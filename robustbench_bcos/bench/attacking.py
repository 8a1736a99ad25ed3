"""What becomes of a batch of images in a cell: attacked, judged, or known to fall from a cheaper search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from robustbench_bcos.attacks.losses import margin
from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.candidates import packed
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.fast_copy import in_tf32
from robustbench_bcos.bench.plan import Plan
from robustbench_bcos.bench.store import Store, VerdictRow
from robustbench_bcos.bench.target import build_attack, make_target
from robustbench_bcos.bench.trial import try_images
from robustbench_bcos.core.prediction import in_parts, predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.rounding import rounded, significant
from robustbench_bcos.core.types import Classifier, Flags, Images, Labels
from robustbench_bcos.data.subset import Batch
from robustbench_bcos.model_zoo.models import Model

MARGIN_DIGITS = 3
"""Significant digits of a margin: images are ordered by it, and further ones differ from batch to batch."""


def carried(plan: Plan, store: Store, cell: Cell) -> dict[int, VerdictRow]:
    """Images that need no attack, because a candidate within a smaller radius is one within this radius, too.

    So is one that fewer steps have found. Only where any iterate counts: the last iterate, or that of highest loss, is
    another one for every radius and number of steps.
    """
    if plan.config.independent_cells or cell.count != "any":
        return {}
    found: dict[int, VerdictRow] = {}
    # The smallest radius last, so that its candidates are the ones that are kept.
    for other in sorted(filter(cell.includes, plan.cells), key=lambda other: other.effort, reverse=True):
        standing = set(store.withstood(other))
        for row in store.verdicts(other):
            if row.attacked and row.image not in standing:
                found[row.image] = row._replace(
                    cell=cell.key, degenerate_gradient=False, forward_passes=0, backward_passes=0, carried=True
                )
    return found


@dataclass(frozen=True)
class Attacker:
    """One cell, which is carried out batch by batch."""

    plan: Plan
    model: Model
    cell: Cell
    known: Mapping[int, VerdictRow]
    """Images that have fallen already."""
    size: BatchSize
    """Images that are walked on together."""

    def __call__(self, batch: Batch, correct: Sequence[bool]) -> tuple[list[VerdictRow], dict[int, bytes]]:
        """Attack what is classified correctly and has not fallen yet; what is not correct falls without an attack.

        Beside the verdicts, the candidates that are to be tried on other models. They are made anew for each radius:
        those of a smaller one would fool fewer.
        """
        rows = {index: VerdictRow(self.cell.key, index, False, -1, 0.0, False, 0, 0) for index in batch.indices}
        rows |= {index: self.known[index] for index in batch.indices if index in self.known}
        spared = self.known.keys() - self.plan.transferred
        places = [place for place, right in enumerate(correct) if right and batch.indices[place] not in spared]
        if not places:
            return list(rows.values()), {}
        attacked, candidates = self._attack(batch, places)
        for place in places:
            index = batch.indices[place]
            row = attacked[index]
            withstood = row.prediction == int(batch.labels[place])
            rows[index] = _with_passes(self.known[index], row) if withstood and index in self.known else row
        return list(rows.values()), candidates

    def _attack(self, batch: Batch, places: list[int]) -> tuple[dict[int, VerdictRow], dict[int, bytes]]:
        images, labels, indices = batch.select(places).on(self.plan.device)
        threat = make_target(self.model, images, self.cell)
        ball, epsilon = NORMS[self.cell.norm], self.cell.radius.value
        noise = PerImageRng.of(self.plan.config.seed, indices)
        attack = build_attack(self.cell, self.cell.loss_of(self.model.loss), self.size.images)
        with in_tf32(self.plan.config.precision == "tf32"):
            tried = try_images(
                attack, threat, labels, ball, epsilon, noise, subject=self.cell.key, width=self.size.images
            )
        candidates, trace, verdicts = tried
        fooled = verdicts.predictions != labels
        margins = margin(verdicts.logits.double(), labels).tolist()
        columns = zip(
            verdicts.predictions.tolist(),
            verdicts.sizes.tolist(),
            *(part.tolist() for part in trace),
            [significant(value, MARGIN_DIGITS) for value in margins],
            _in_eight_bits(in_parts(threat.classifier, self.size.images), candidates, labels, fooled),
            strict=True,
        )
        rows = {
            index: VerdictRow(self.cell.key, index, True, prediction, rounded(size), *traced)
            for index, (prediction, size, *traced) in zip(indices, columns, strict=True)
        }
        kept = self.plan.transferred
        return rows, {index: packed(image) for index, image in zip(indices, candidates, strict=True) if index in kept}


def _with_passes(known: VerdictRow, row: VerdictRow) -> VerdictRow:
    """A verdict from a cheaper search, and what this one cost, which found nothing."""
    return known._replace(
        degenerate_gradient=row.degenerate_gradient,
        forward_passes=row.forward_passes,
        backward_passes=row.backward_passes,
    )


@torch.no_grad()
def _in_eight_bits(classifier: Classifier, candidates: Images, labels: Labels, fooled: Flags) -> list[bool | None]:
    """Of the candidates that fool, those that do so still when they are stored as a picture is: in k/255."""
    outcome: list[bool | None] = [None] * len(labels)
    where = fooled.nonzero().squeeze(1)
    if len(where):
        rounded = (candidates[where] * 255).round() / 255
        still = predicted_classes(classifier(rounded)) != labels[where]
        for position, fools in zip(where.tolist(), still.tolist(), strict=True):
            outcome[position] = fools
    return outcome
