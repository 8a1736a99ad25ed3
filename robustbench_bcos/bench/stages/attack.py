"""Attacks on the images of a cell: searched, judged, or known to be broken from a cheaper search."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from robustbench_bcos.bench.adversarials import to_bytes, to_levels
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.failures import failures_named
from robustbench_bcos.bench.fast_copy import in_tf32
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rounding import nearest_level, round_successes
from robustbench_bcos.bench.rows import AdversarialRow, Row, VerdictRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import AttackTarget, make_target
from robustbench_bcos.bench.trial import Judged, search_and_judge
from robustbench_bcos.bench.unfinished import Unfinished
from robustbench_bcos.core.prediction import NO_CLASS, in_parts
from robustbench_bcos.core.rounding import significant
from robustbench_bcos.data.subset import Batch
from robustbench_bcos.model_zoo.models import Model

NEARNESS_DIGITS = 3
"""Significant digits of the nearness: images are ordered by it, and further ones differ from batch to batch."""

BATCHES = 4
"""In a part of the subset that is attacked as a whole, where images that are done make room for others. Its end, when
few are left in the batch, comes once."""


def attack_cell(request: Request, model: Model, cell: Cell, known: Store, size: BatchSize) -> Iterator[Progress]:
    """Attack the images of a cell that have no verdict yet, part by part.

    The parts are fixed and recorded as a whole, so a run that is continued repeats none of them and meets the same
    batches as one that was never stopped. A part that takes long is recorded on its way, too, and goes on from there.
    """
    done = known.done(cell)
    correct = {image: row.correct for image, row in known.clean(model.name).items()}
    stage = _Stage(request=request, model=model, cell=cell, known=inherited_verdicts(request, cell, known), size=size)
    for attempt in size.over(len(request.worked_on), BATCHES if cell.attack.refills else 1):
        indices = request.worked_on.indices[attempt.start : attempt.stop]
        with attempt as part, failures_named(model, request.subset.dataset, indices, cell.work):
            rows: tuple[Row, ...] = ()
            if not done.issuperset(indices):
                unfinished = Unfinished(known, cell, "attack", batch_size=size.images)
                batch = request.worked_on.batch(part.start, part.stop)
                found = yield from stage.attack(batch, [correct[index] for index in indices], unfinished)
                rows = (*found, *unfinished.done(), unfinished.timing(len(indices)))
            yield Progress(cell=cell, images=len(indices), rows=rows)


def inherited_verdicts(request: Request, cell: Cell, known: Store) -> dict[int, VerdictRow]:
    """Images that need no attack: what succeeds within a smaller epsilon, or in fewer steps, succeeds here, too.

    Only where the first success is returned: the last iterate, or that of largest loss, is another one for every
    epsilon and number of steps.
    """
    if request.config.independent_cells or not cell.attack.inherits:
        return {}
    found: dict[int, VerdictRow] = {}
    # The smallest epsilon last, so that its adversarial examples are the ones that are kept.
    for other in sorted(filter(cell.includes, request.cells), key=lambda other: other.effort, reverse=True):
        for row in known.verdicts(other):
            if row.success:
                found[row.image] = replace(
                    row,
                    cell=cell.key,
                    degenerate_gradient=False,
                    forward_passes=0,
                    backward_passes=0,
                    inherited=True,
                )
    return found


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """One cell, which is attacked batch by batch."""

    request: Request
    model: Model
    cell: Cell
    known: Mapping[int, VerdictRow]
    """Images that are broken already."""
    size: BatchSize

    def attack(
        self, batch: Batch, correct: Sequence[bool], unfinished: Unfinished
    ) -> Generator[Progress, None, list[Row]]:
        """Attack the images that are worth it and not broken yet; the others get a verdict without an attack.

        Adversarial examples that are tried on other models are made anew for each epsilon: those of a smaller one
        would break fewer.
        """
        rows: dict[int, VerdictRow] = {index: self._not_attacked(index) for index in batch.indices}
        rows |= {index: self.known[index] for index in batch.indices if index in self.known}
        spared = self.known.keys() - self.request.transferred
        wanted = [place for place, right in enumerate(correct) if right and batch.indices[place] not in spared]
        if not wanted:
            return list(rows.values())
        images, labels, indices = batch.select(wanted).on(self.request.device)
        target = make_target(self.model, self.cell, images, labels, seed=self.request.config.seed, indices=indices)
        right = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        worth = target.criterion.eligible(right, labels, target.goals).nonzero().squeeze(1)
        if len(worth) == 0:
            return list(rows.values())
        target = target.select(worth)
        attack = self.cell.attack.with_loss(self.model.loss)
        with in_tf32(self.request.config.precision == "tf32"):
            steps = search_and_judge(
                attack,
                target,
                subject=self.cell.key,
                batch_size=self.size.images,
                left=unfinished.left(target),
            )
            judged = yield from unfinished.watch(steps, target)
        found = self._verdicts(target, judged)
        for index, row in found.items():
            # A verdict of a cheaper search stays, with what this search has cost.
            known = self.known.get(index)
            rows[index] = row if row.success or known is None else _with_passes(known, row)
        return [*rows.values(), *self._kept(target, judged)]

    def _verdicts(self, target: AttackTarget, judged: Judged) -> dict[int, VerdictRow]:
        verdicts, trace = judged.verdicts, judged.trace
        measured: dict[str, list[Any]] = {
            "success": verdicts.success.tolist(),
            "prediction": verdicts.predictions.tolist(),
            "size": [significant(size) for size in verdicts.sizes.tolist()],
            "degenerate_gradient": trace.degenerate_gradient.tolist(),
            "forward_passes": trace.forward_passes.tolist(),
            "backward_passes": trace.backward_passes.tolist(),
            "nearness": [significant(value, NEARNESS_DIGITS) for value in verdicts.nearness.tolist()],
            "eight_bit": self._in_eight_bits(target, judged),
            "rounded": judged.rounded.tolist(),
        }
        return {
            index: VerdictRow(
                cell=self.cell.key,
                image=index,
                attacked=True,
                **{name: values[place] for name, values in measured.items()},
            )
            for place, index in enumerate(target.rng.indices)
        }

    @torch.no_grad()
    def _in_eight_bits(self, target: AttackTarget, judged: Judged) -> list[bool | None]:
        """Of the successes, those that are one still when they are stored as a picture is: in k/255."""
        outcome: list[bool | None] = [None] * len(target.images)
        where = judged.verdicts.success.nonzero().squeeze(1)
        if len(where):
            outputs = in_parts(target.classifier, self.size.images)(nearest_level(judged.adversarials[where]))
            still = target.criterion.success(outputs, target.goals[where])
            for position, succeeds in zip(where.tolist(), still.tolist(), strict=True):
                outcome[position] = succeeds
        return outcome

    def _kept(self, target: AttackTarget, judged: Judged) -> list[AdversarialRow]:
        """Adversarial examples that are to be saved, explained or tried on other models."""
        kept, transferred = self.request.kept(self.cell), self.request.transferred
        pictures = self._pictures(target, judged) if self.request.config.save_adversarials else {}
        return [
            AdversarialRow(
                cell=self.cell.key,
                image=index,
                pixels=to_bytes(adversarial),
                transferred=index in transferred,
                **pictures.get(index, {}),
            )
            for index, adversarial in zip(target.rng.indices, judged.adversarials, strict=True)
            if index in kept
        ]

    def _pictures(self, target: AttackTarget, judged: Judged) -> dict[int, dict[str, Any]]:
        """Columns of pictures near successes that succeed, too, by image."""
        successes = target.select(judged.verdicts.success.nonzero().squeeze(1))
        if len(successes.images) == 0:
            return {}
        rounded = round_successes(
            successes,
            judged.adversarials[judged.verdicts.success],
            subject=self.cell.key,
            batch_size=self.size.images,
        )
        return {
            successes.rng.indices[place]: {
                "rounded": to_levels(rounded.images[place]),
                "rounded_prediction": int(rounded.predictions[place]),
            }
            for place in rounded.success.nonzero().squeeze(1).tolist()
        }

    def _not_attacked(self, index: int) -> VerdictRow:
        return VerdictRow(
            cell=self.cell.key,
            image=index,
            attacked=False,
            success=False,
            prediction=NO_CLASS,
            size=0.0,
            degenerate_gradient=False,
            forward_passes=0,
            backward_passes=0,
        )


def _with_passes(known: VerdictRow, row: VerdictRow) -> VerdictRow:
    return replace(
        known,
        degenerate_gradient=row.degenerate_gradient,
        forward_passes=row.forward_passes,
        backward_passes=row.backward_passes,
    )
