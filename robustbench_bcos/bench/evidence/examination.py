"""Carries out the checks of a plan, for one model at a time, once every model has been attacked."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from robustbench_bcos.attacks.apgd import APGD
from robustbench_bcos.attacks.losses import LOSSES
from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.attacks.pgd import PGD
from robustbench_bcos.bench.adversarials import from_bytes
from robustbench_bcos.bench.batch_size import BatchSize, is_out_of_memory
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence.answers import ANSWERS, ASKED, changed
from robustbench_bcos.bench.evidence.binarization import Features, binarize
from robustbench_bcos.bench.evidence.checks import CHECKS, Check, checks_of
from robustbench_bcos.bench.evidence.finding import Found
from robustbench_bcos.bench.evidence.indicators import DRAWS, PROGRESS, UNSTABLE, Path, instability, records
from robustbench_bcos.bench.evidence.searches import FEWEST_STEPS, FULL, QUICK, SecondSearch
from robustbench_bcos.bench.evidence.selection import Part, Selection
from robustbench_bcos.bench.judge import judge
from robustbench_bcos.bench.plan import Plan
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.rows import EvidenceRow, ResultRow, TimingRow, TransferRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import AttackTarget, build_attack, make_target
from robustbench_bcos.bench.trial import try_images
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Labels
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.models import Model

LOOKED_AT = 32
"""Images of which paths are read and read-outs are fitted."""

LEAST = 2 * FEWEST_STEPS + 1
"""Forward and backward passes of each image that withstood, which an attack is taken to have cost at least."""


class Undone(Exception):
    """A check that cannot be carried out here; the message says why, as the end of a sentence."""


def examine(plan: Plan, store: Store, model: Model, cells: Sequence[Cell]) -> Iterator[Progress]:
    """Carry out what is not yet in the store: checks of the model once, checks of cells for each; tell of every one."""
    size = plan.batch_size(model)
    known = store.evidence(model.name)
    for check in checks_of(plan.config.evidence, "model"):
        if check.name not in known:
            _record(store, model.name, check, _ask(plan, store, model, check), cells)
    for cell in cells:
        examiner = _Examiner(plan, store, model, cell, size)
        known = store.evidence(cell.key)
        for check in checks_of(plan.config.evidence, "cell"):
            if check.name not in known:
                _record(store, cell.key, check, examiner.findings(check), [cell])
            yield Progress(cell, plan.work_of_a_check, "evidence")


def _record(store: Store, subject: str, check: Check, findings: Iterator[ResultRow], cells: Sequence[Cell]) -> None:
    began = time.perf_counter()
    try:
        rows, undone = list(findings), ""
    except Undone as reason:
        rows, undone = [], str(reason)
    except (RuntimeError, MemoryError) as error:
        # Checks that look at a fixed number of images do so at once.
        if not is_out_of_memory(error):
            raise
        rows, undone = [], "memory ran out"
    # What a look at a model took is shared by its cells.
    seconds = (time.perf_counter() - began) / len(cells)
    timings = [TimingRow(cell=cell.key, work="evidence", images=0, seconds=seconds) for cell in cells]
    store.add(EvidenceRow(subject=subject, check=check.name, skipped_because=undone), *rows, *timings)


def _ask(plan: Plan, store: Store, model: Model, check: Check) -> Iterator[ResultRow]:
    batch = plan.images.batch(0, ASKED)
    images, labels, _ = batch.on(plan.device)
    found = ANSWERS[check.name](model.classifier, images, labels)
    asked = batch.indices[: len(found.against)]
    if check.name == "stochastic":
        clean = store.clean(model.name)
        before = torch.tensor([clean[image].prediction for image in asked], device=plan.device)
        found = found._replace(against=found.against | changed(model.classifier, images, before))
    yield from found.rows(model.name, check.name, dict.fromkeys(asked, "nearest"))


@dataclass
class _Examiner:
    """One cell, and the images of it that withstood the attack."""

    plan: Plan
    store: Store
    model: Model
    cell: Cell
    size: BatchSize

    def findings(self, check: Check) -> Iterator[ResultRow]:
        """Carry a check out."""
        special = {
            "transfer": self._transfer,
            "binarization": self._binarized,
            "unstable_loss": self._unstable,
            "silent_success": self._path,
            "incomplete_search": self._path,
            "surrogate": self._path,
        }
        return special.get(check.name, self._search)(check)

    def _search(self, check: Check) -> Iterator[ResultRow]:
        """The nearest images, part by part for as long as some fall, and a sample of the others."""
        full = self.plan.config.evidence == "full"
        share = (FULL if full else QUICK)[check.name]
        search = share.search(self.cell, self._loss)
        withstood = self.store.robust(self.cell)
        if not withstood:
            return
        most = len(withstood) if full else max(1, int(self._budget(share.part) / search.passes))
        selection = Selection.of(withstood, len(self.plan.images), most)
        examined: dict[int, Part] = {}
        nearest: dict[int, bool] = {}
        chosen = selection.first
        while chosen:
            rows = list(self._examined(check, search, chosen))
            yield from rows
            examined |= chosen
            nearest |= {row.image: row.broken for row in rows if row.part == "nearest"}
            goes_on = check.rule == "search" and any(nearest[image] for image in selection.last(nearest))
            chosen = selection.following(examined) if goes_on else {}
        if check.rule == "search":
            called = sorted(self._called() - examined.keys())
            yield from self._examined(check, search, dict.fromkeys(called, "called"))

    def _budget(self, part: float) -> float:
        """Passes that quick evidence may spend on a check: part of the attack's, and what others have left of them."""
        sums = self.store.sums(self.cell)
        # An attack that costs next to nothing would be checked with next to nothing.
        spent = max(sums.forward_passes + sums.backward_passes, sums.robust_correct * LEAST)
        already = sum(row.passes for row in self.store.select(ResultRow, subject=self.cell.key))
        return min(part * spent, float(spent - already))

    def _called(self) -> set[int]:
        """Images that were fooled without gradients."""
        found = self.store.select(ResultRow, subject=self.cell.key)
        return {row.image for row in found if row.broken and CHECKS[row.check].rule == "gradients"}

    def _examined(self, check: Check, search: SecondSearch, parts: Mapping[int, Part]) -> Iterator[ResultRow]:
        """Search for images, each of a part, in batches."""
        for attempt in self.size.over(len(parts)):
            with attempt as part:
                chosen = {image: parts[image] for image in tuple(parts)[part]}
                yield from self._attacked(check, search, tuple(chosen)).rows(self.cell.key, check.name, chosen)

    def _attacked(self, check: Check, search: SecondSearch, indices: tuple[int, ...]) -> Found:
        threat, labels = self._threat(indices)
        ball, epsilon = NORMS[self.cell.norm], self.cell.radius.value
        if check.name == "unbounded_attack":
            epsilon = ball.diameter(threat.images.shape[1:])
        source = PerImageRng.of(self.plan.config.seed, indices).fold_in(check.name)
        fell = torch.zeros(len(indices), dtype=torch.bool, device=labels.device)
        passes = torch.zeros_like(labels)
        for number, attack in enumerate(search.attacks):
            standing = (~fell).nonzero().squeeze(1)
            if len(standing) == 0:
                break
            images, right = threat.images[standing], labels[standing]
            stream = source.fold_in(number).select(standing.tolist())
            subject = f"{self.cell.key}, {check.name}"
            tried = try_images(attack, threat._replace(images=images), right, ball, epsilon, stream, subject=subject)
            fell[standing] = tried.verdicts.predictions != right
            passes[standing] += tried.trace.forward_passes + tried.trace.backward_passes
        if check.name == "unbounded_attack":
            return Found(~fell, None, passes)
        return Found(fell, None, passes, fell)

    def _first(self) -> EvalSubset:
        """The images that the slower checks look at: the first of the slice that are classified correctly."""
        clean = self.store.clean(self.cell.model)
        right = [image for image in self.plan.images.indices if clean[image].prediction == clean[image].label]
        if not right:
            raise Undone("no image is classified correctly")
        return EvalSubset(self.plan.images.dataset, tuple(right[:LOOKED_AT]))

    def _path(self, check: Check) -> Iterator[ResultRow]:
        """What the attack saw on its way."""
        attack = build_attack(self.cell, self._loss)
        if not isinstance(attack, PGD | APGD) or not records(attack):
            raise Undone("only the paths of pgd and apgd can be read")
        indices = self._first().indices
        threat, labels = self._threat(indices)
        ball, epsilon = NORMS[self.cell.norm], self.cell.radius.value
        source = PerImageRng.of(self.plan.config.seed, indices)
        path = Path.of(attack, threat.classifier, threat.images, labels, ball, epsilon, source)
        values, fell = None, None
        if check.name == "silent_success":
            # Where any iterate counts, none is silent.
            against = fell = path.silent() & (self.cell.count != "any")
        elif check.name == "incomplete_search":
            values = path.progress(attack.loss)
            against = values > PROGRESS
        else:
            against = path.surrogate(threat.classifier) | torch.tensor(self.cell.space != "image")
        found = Found(against, values, path.passes, fell)
        yield from found.rows(self.cell.key, check.name, dict.fromkeys(indices, "sample"))

    def _unstable(self, check: Check) -> Iterator[ResultRow]:
        indices = self._first().indices
        threat, labels = self._threat(indices)
        source = PerImageRng.of(self.plan.config.seed, indices).fold_in("unstable_loss")
        loss = LOSSES[self._loss] if self._loss in LOSSES else LOSSES["ce"]
        values = instability(threat.classifier, threat.images, labels, loss, source)
        found = Found(values > UNSTABLE, values, 1 + DRAWS)
        yield from found.rows(self.cell.key, check.name, dict.fromkeys(indices, "sample"))

    def _binarized(self, check: Check) -> Iterator[ResultRow]:
        """Image by image, because each has a read-out of its own."""
        indices = self._first().indices
        ball, epsilon = NORMS[self.cell.norm], self.cell.radius.value
        attack = build_attack(self.cell, self._loss)
        usable = 0
        for index in indices:
            threat, _ = self._threat((index,))
            try:
                features = Features(threat.classifier, threat.images)
            except ValueError as reason:
                raise Undone(str(reason)) from None
            source = PerImageRng.of(self.plan.config.seed, [index]).fold_in("binarization")
            answer = binarize(features, attack, threat.images, ball, epsilon, source)
            usable += answer.usable
            if answer.usable:
                yield ResultRow(
                    subject=self.cell.key,
                    check=check.name,
                    image=index,
                    part="sample",
                    broken=False,
                    against=not answer.found,
                    value=None,
                    passes=answer.passes,
                )
        if not usable:
            raise Undone("no read-out of its features is hard enough for random points and can be fitted")

    @property
    def _loss(self) -> str:
        return self.cell.loss_of(self.model.loss)

    def _transfer(self, check: Check) -> Iterator[ResultRow]:
        """Candidates made on every other model for the same threat, judged on this one."""
        if len(self.plan.sources) < 2:
            raise Undone("there is no second model in this run")
        if self.cell.space != "image":
            raise Undone("candidates in the space of one model's encoding are no images for another")
        clean = self.store.clean(self.cell.model)
        withstood = set(self.store.robust(self.cell))
        candidates = {
            source.name: self.store.adversarials(replace(self.cell, model=source.name))
            for source in self.plan.sources
            if source.name != self.cell.model
        }
        if not any(candidates.values()):
            raise Undone("no other model of this run was attacked in the same way")
        fell: dict[int, bool] = {}
        for source, kept in candidates.items():
            right = {image: kept[image] for image in kept if clean[image].prediction == clean[image].label}
            rows = self._tried(source, right)
            self.store.add(*rows)
            for row in rows:
                if row.image in withstood:
                    fell[row.image] = fell.get(row.image, False) or row.broken
        for image, fooled in sorted(fell.items()):
            passes = len(self.plan.sources) - 1
            yield ResultRow(
                subject=self.cell.key,
                check=check.name,
                image=image,
                part="sample",
                broken=fooled,
                against=fooled,
                value=None,
                passes=passes,
            )

    def _tried(self, source: str, kept: dict[int, bytes]) -> list[TransferRow]:
        rows = []
        ball, epsilon = NORMS[self.cell.norm], self.cell.radius.value
        for attempt in self.size.over(len(kept)):
            with attempt as part:
                indices = tuple(kept)[part]
                threat, labels = self._threat(indices)
                pixels = [kept[image] for image in indices]
                candidates = from_bytes(pixels, threat.images.shape[1:]).to(threat.images.device)
                verdicts = judge(
                    threat.classifier, threat.images, candidates, ball, epsilon, cell=self.cell.key, indices=indices
                )
                fooled = (verdicts.predictions != labels).tolist()
                rows += [
                    TransferRow(cell=self.cell.key, source=source, image=image, broken=broken)
                    for image, broken in zip(indices, fooled, strict=True)
                ]
        return rows

    def _threat(self, indices: tuple[int, ...]) -> tuple[AttackTarget, Labels]:
        images, labels, _ = EvalSubset(self.plan.images.dataset, indices).batch(0, len(indices)).on(self.plan.device)
        return make_target(self.model, images, self.cell), labels
