"""What becomes of a batch of images in a cell: attacked, judged, or known to fall from a cheaper search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from robustbench_bcos.attacks.losses import margin
from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.bench.adversarials import to_bytes
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.fast_copy import in_tf32
from robustbench_bcos.bench.plan import Plan
from robustbench_bcos.bench.rows import AdversarialRow, VerdictRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import build_attack, make_target
from robustbench_bcos.bench.trial import try_images
from robustbench_bcos.core.prediction import NO_CLASS, in_parts, predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.rounding import significant
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
        standing = set(store.robust(other))
        for row in store.verdicts(other):
            if row.attacked and row.image not in standing:
                found[row.image] = replace(
                    row, cell=cell.key, degenerate_gradient=False, forward_passes=0, backward_passes=0, inherited=True
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

    def __call__(self, batch: Batch, correct: Sequence[bool]) -> tuple[list[VerdictRow], list[AdversarialRow]]:
        """Attack what is classified correctly and has not fallen yet; what is not correct falls without an attack.

        Beside the verdicts, the candidates that are to be tried on other models. They are made anew for each radius:
        those of a smaller one would fool fewer.
        """
        rows = {index: self._not_attacked(index) for index in batch.indices}
        rows |= {index: self.known[index] for index in batch.indices if index in self.known}
        spared = self.known.keys() - self.plan.transferred
        places = [place for place, right in enumerate(correct) if right and batch.indices[place] not in spared]
        if not places:
            return list(rows.values()), []
        attacked, candidates = self._attack(batch, places)
        for place in places:
            index = batch.indices[place]
            row = attacked[index]
            withstood = row.prediction == int(batch.labels[place])
            rows[index] = _with_passes(self.known[index], row) if withstood and index in self.known else row
        return list(rows.values()), candidates

    def _attack(self, batch: Batch, places: list[int]) -> tuple[dict[int, VerdictRow], list[AdversarialRow]]:
        images, labels, indices = batch.some(places).on(self.plan.device)
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
        margins = margin(verdicts.logits.double(), labels)
        measured: dict[str, list[Any]] = {
            "prediction": verdicts.predictions.tolist(),
            "size": [significant(size) for size in verdicts.sizes.tolist()],
            "degenerate_gradient": trace.degenerate_gradient.tolist(),
            "forward_passes": trace.forward_passes.tolist(),
            "backward_passes": trace.backward_passes.tolist(),
            "margin": [significant(value, MARGIN_DIGITS) for value in margins.tolist()],
            "eight_bit": _in_eight_bits(in_parts(threat.classifier, self.size.images), candidates, labels, fooled),
        }
        rows = {
            index: VerdictRow(
                cell=self.cell.key,
                image=index,
                attacked=True,
                **{name: values[place] for name, values in measured.items()},
            )
            for place, index in enumerate(indices)
        }
        kept = [
            AdversarialRow(cell=self.cell.key, image=index, pixels=to_bytes(candidate))
            for index, candidate in zip(indices, candidates, strict=True)
            if index in self.plan.transferred
        ]
        return rows, kept

    def _not_attacked(self, index: int) -> VerdictRow:
        return VerdictRow(
            cell=self.cell.key,
            image=index,
            attacked=False,
            prediction=NO_CLASS,
            size=0.0,
            degenerate_gradient=False,
            forward_passes=0,
            backward_passes=0,
        )


def _with_passes(known: VerdictRow, row: VerdictRow) -> VerdictRow:
    """A verdict from a cheaper search, and what this one cost, which found nothing."""
    return replace(
        known,
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
