"""What checks are shown: the verdicts of a cell, a model with a few images, or a cell with all that attacks need."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.attacks.driver import GradientAttack
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCheck, AbstractSearchCheck, NotApplicable
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.evidence.selection import Part, Selection, nearest_first
from robustbench_bcos.bench.rows import ResultRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images, Labels

if TYPE_CHECKING:
    from torch import nn

    from robustbench_bcos.attacks.loss import Loss
    from robustbench_bcos.bench.batch_size import BatchSize
    from robustbench_bcos.bench.evidence.alternatives import Alternatives, Compared, Standard
    from robustbench_bcos.bench.evidence.indicators import Path
    from robustbench_bcos.bench.request import Request
    from robustbench_bcos.bench.target import AttackTarget
    from robustbench_bcos.data.subset import EvalSubset
    from robustbench_bcos.model_zoo.models import Model

FIRST = 32
"""Images of which paths are read and read-outs are fitted."""

AGAIN = 32
"""The nearest images, of all that are left after a search at length, that are searched again with other draws; and
searches at a time, each of fewer images with more draws. Searched alone, eight images take three times as long each."""

FEWEST_AGAIN = 8
"""Where none is broken, half as many are searched the next time, but so many at least."""

IN_VAIN = 96
"""Searches, each of one image with draws of its own, after which it ends if none since the last success broke any. So
where few images are left each is searched often."""

CONVERGED = 0.001
"""Share of the images that counts as none."""

FEWEST_STEPS = 20
"""Steps that an attack is taken to have had at least: with the budget of fewer, checks would be too weak to find
anything."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelContext:
    """A model, and the first images of the evaluation subset."""

    classifier: "nn.Module"
    images: Images
    labels: Labels
    predictions: Labels
    """What the model said of them before the attacks."""
    subset: "EvalSubset"
    rng: PerImageRng
    """Of these images."""
    alternatives: "Alternatives" = field(default_factory=dict)
    """Other models that the same weights may have been, by the argument that makes them."""

    def compare(self, alternatives: "Alternatives", standard: "Standard") -> "Compared":
        """The model, beside others."""
        from robustbench_bcos.bench.evidence.alternatives import Asked, compare

        device = str(self.images.device)
        asked = Asked(self.classifier, self.subset, device)
        return compare(asked, alternatives, self.subset, device, standard)


@dataclass(frozen=True, kw_only=True)
class CellContext:
    """One cell and the images of it that its attack did not break."""

    request: "Request"
    model: "Model"
    cell: Cell
    known: Store
    size: "BatchSize"
    found: dict[tuple[object, ...], dict[int, ResultRow]]
    """By search and image, what has been found for cells of the model."""

    @cached_property
    def attack(self) -> AbstractAttack:
        """The cell's attack, with the loss that ``auto`` turned out to be."""
        return self.cell.attack.with_loss(self.model.loss)

    def ascended(self, target: "AttackTarget") -> "Loss":
        """The loss that checks look at: the attack's own, or the usual one where it has none."""
        return target.criterion.objective(getattr(self.attack, "loss", "ce"))

    @cached_property
    def robust(self) -> list[int]:
        """Images that the attack did not break, the nearest to being broken first."""
        return self.known.robust(self.cell)

    @property
    def full(self) -> bool:
        """Whether all images are examined, whatever that costs."""
        return self.request.config.evidence == "full"

    def target(self, indices: Sequence[int], *, stream: str) -> "AttackTarget":
        """Some images, ready to be attacked; what is drawn comes from the stream of this name."""
        from robustbench_bcos.bench.target import make_target
        from robustbench_bcos.data.subset import EvalSubset

        subset = EvalSubset(self.request.subset.dataset, tuple(indices))
        images, labels, _ = subset.batch(0, len(indices)).on(self.request.device)
        made = make_target(self.model, self.cell, images, labels, seed=self.request.config.seed, indices=indices)
        return replace(made, rng=made.rng.fold_in(stream))

    def first_correct(self) -> list[int]:
        """The images that the slower checks look at: the first about which the model is right.

        Raises:
            NotApplicable: there are none.
        """
        clean = self.known.clean(self.cell.model)
        right = [image for image in self.request.subset.indices if clean[image].correct]
        if not right:
            raise NotApplicable("no image is classified correctly")
        return right[:FIRST]

    def path(self) -> "tuple[AttackTarget, Path]":
        """What the attack saw on its way, for the first images.

        Raises:
            NotApplicable: the attack follows no path.
        """
        from robustbench_bcos.bench.evidence.indicators import Path

        if not isinstance(self.attack, GradientAttack) or not self.attack.has_path:
            others = {name: ATTACKS[name] for name in ATTACKS}
            read = [name for name, kind in others.items() if issubclass(kind, GradientAttack) and kind.has_path]
            raise NotApplicable(f"only the paths of {' and '.join(read)} can be read")
        target = self.target(self.first_correct(), stream="path")
        return target, Path.of(self.attack, target)

    def row(self, check: AbstractCheck, image: int, *, against: bool, passes: int) -> ResultRow:
        """The result of a check that was not a search, for one image."""
        return ResultRow(
            subject=self.cell.key,
            check=check.name,
            image=image,
            part="sample",
            broken=False,
            against=against,
            value=None,
            passes=passes,
        )

    def rows(self, check: AbstractCheck, target: "AttackTarget", found: Found) -> list[ResultRow]:
        """The results of a check that looked at a batch of images."""
        return found.rows(self.cell.key, check.name, dict.fromkeys(target.rng.indices, "sample"))

    def searched(
        self, check: AbstractCheck, most: int, search: "Callable[[AttackTarget], Found]"
    ) -> Iterator[ResultRow]:
        """Rows of a search that is no attack, over so many robust images: the nearest, and a sample of the others."""
        chosen = Selection.of(self.robust, len(self.request.subset), most).first
        for attempt in self.size.over(len(chosen)):
            with attempt as part:
                parts = {image: chosen[image] for image in tuple(chosen)[part]}
                found = search(self.target(tuple(parts), stream=check.name))
                yield from found.rows(self.cell.key, check.name, parts)

    def search(self, check: AbstractSearchCheck) -> Iterator[ResultRow]:
        """Search for the nearest images, part by part for as long as some are broken, and for a sample of the others.

        A check with deeper attacks first screens all, with the first of its attacks that serves the cell. What is
        nearest then is what that nearly broke. Images that one draw in several breaks are left by a single search,
        however long: so the very nearest are searched again and again, fewer each time, for as long as some break.

        Raises:
            NotApplicable: none of the check's attacks serves the cell's norm and criterion.
        """
        attacks = self._applicable(check.attacks(self.attack, full=self.full))
        images = len(self.request.subset)
        if not self.robust:
            return
        if not check.deeper(self.attack):
            affordable = int(self._budget(check.budget) / sum(attack.passes for attack in attacks))
            most = len(self.robust) if self.full else max(check.fewest, affordable)
            yield from self._selected(check, attacks, Selection.of(self.robust, images, most))
            return
        brief = self._examined(check, attacks[:1], dict.fromkeys(self.robust, "screened"))
        known = {row.image: row for row in brief}
        left = nearest_first(row for row in known.values() if not row.broken)
        selection = Selection.of(left, images, len(left))
        at_length = self._applicable(check.deeper(self.attack))
        found = self._selected(check, at_length, selection if self.full else selection.briefly_begun, 1)
        rows = list(found)
        reached = known | {row.image: row for row in rows}
        known |= {row.image: _after(known[row.image], row) for row in rows}
        many, in_vain, draws = AGAIN, 0, count(2)
        while in_vain < IN_VAIN:
            chosen = nearest_first(reached[image] for image, row in known.items() if not row.broken)[:many]
            if not chosen:
                break
            times = max(1, AGAIN // len(chosen))
            rows = list(self._examined(check, at_length, dict.fromkeys(chosen, "nearest"), next(draws), times))
            for row in rows:
                reached[row.image] = replace(row, value=_larger(reached[row.image].value, row.value))
                known[row.image] = _after(known[row.image], row)
            if sum(row.broken for row in rows) > CONVERGED * images:
                in_vain = 0
            else:
                in_vain, many = in_vain + times * len(rows), max(many // 2, FEWEST_AGAIN)
        yield from known.values()

    def _selected(
        self, check: AbstractSearchCheck, attacks: Sequence[AbstractAttack], selection: Selection, draw: int = 0
    ) -> Iterator[ResultRow]:
        """Search for the images of a selection, and for those that are called."""
        examined: dict[int, Part] = {}
        nearest: dict[int, bool] = {}
        chosen = selection.first
        while chosen:
            rows = list(self._examined(check, attacks, chosen, draw))
            yield from rows
            examined |= chosen
            nearest |= {row.image: row.broken for row in rows if row.part == "nearest"}
            goes_on = check.rule == "search" and any(nearest[image] for image in selection.last(nearest))
            chosen = selection.following(examined) if goes_on else {}
        if check.rule == "search":
            called = sorted(self._broken_without_gradients().intersection(selection.robust) - examined.keys())
            yield from self._examined(check, attacks, dict.fromkeys(called, "called"), draw)

    def _applicable(self, attacks: Sequence[AbstractAttack]) -> list[AbstractAttack]:
        """Attacks without those that do not serve the cell."""
        criterion = make_criterion(self.cell.criterion)
        served, reason = [], ""
        for attack in attacks:
            try:
                attack.check(self.cell.threat.geometry, criterion)
            except RequestError as error:
                reason = str(error)
            else:
                served.append(attack)
        if not served:
            raise NotApplicable(reason)
        return served

    def _budget(self, part: float) -> float:
        """Passes that quick evidence may spend on a check: part of the attack's, and what others have left of them."""
        sums = self.known.sums(self.cell)
        least = len(self.robust) * (2 * FEWEST_STEPS + 1)
        spent = max(sums.forward_passes + sums.backward_passes, least)
        already = sum(row.passes for row in self.known.results(self.cell.key))
        return min(part * spent, float(spent - already))

    def _broken_without_gradients(self) -> set[int]:
        """Images that a search along gradients must be asked about."""
        results = self.known.results(self.cell.key)
        return {row.image for row in results if row.broken and CHECKS[row.check].rule == "gradients"}

    def _examined(
        self,
        check: AbstractSearchCheck,
        attacks: Sequence[AbstractAttack],
        parts: Mapping[int, Part],
        draw: int = 0,
        times: int = 1,
    ) -> Iterator[ResultRow]:
        """Search for images, each of a part, in batches; every draw, and every time, has random streams of its own.

        What another cell of the same threat has already been given is not searched again: it depends on the image, and
        not on which attack left it robust. Its passes count for both, as if each were alone.
        """
        cell = self.cell
        asked = (check.name, cell.threat, cell.criterion, cell.space, *self._streams(check), *attacks, draw, times)
        known = self.found.setdefault(asked, {})
        new = [image for image in parts if image not in known]
        for attempt in self.size.over(len(new)):
            with attempt as part:
                chosen = {image: parts[image] for image in new[part]}
                found = self._attacked(check, attacks, tuple(chosen), draw, times)
                known |= {row.image: row for row in found.rows(cell.key, check.name, chosen)}
        yield from (replace(known[image], subject=cell.key, part=part) for image, part in parts.items())

    def _streams(self, check: AbstractSearchCheck) -> list[AbstractAttack]:
        """All attacks of a check: each draws from a stream of its own."""
        return [*check.attacks(self.attack, full=self.full), *check.deeper(self.attack)]

    def _attacked(
        self,
        check: AbstractSearchCheck,
        attacks: Sequence[AbstractAttack],
        indices: tuple[int, ...],
        draw: int,
        times: int,
    ) -> Found:
        from robustbench_bcos.bench.trial import attack_and_judge

        target = self.target(indices, stream=check.name)
        target = target.within(check.threat(target.threat, target.images))
        broken = torch.zeros(len(indices), dtype=torch.bool, device=target.images.device)
        passes = torch.zeros(len(indices), dtype=torch.long, device=target.images.device)
        nearness = torch.full((len(indices),), -torch.inf, dtype=torch.float64, device=target.images.device)
        streams = self._streams(check)
        for attack in attacks:
            robust = (~broken).nonzero().squeeze(1)
            if len(robust) == 0:
                break
            chosen = target.select(robust)
            chosen = replace(chosen, rng=chosen.rng.fold_in(streams.index(attack)).fold_in(draw))
            chosen = chosen if times == 1 else chosen.repeated(times)
            together = max(self.size.images, len(indices))
            judged = attack_and_judge(attack, chosen, subject=f"{self.cell.key}, {check.name}", batch_size=together)
            by_times = (times, -1)
            broken[robust] = judged.verdicts.success.view(by_times).any(dim=0)
            reached = judged.verdicts.nearness.double().view(by_times).amax(dim=0)
            nearness[robust] = nearness[robust].maximum(reached)
            spent = judged.trace.forward_passes + judged.trace.backward_passes
            passes[robust] += spent.view(by_times).sum(dim=0)
        within = check.threat(self.cell.threat, target.images) == self.cell.threat
        return Found(
            against=check.against(broken),
            # By this the images are ordered that a deeper search begins with.
            values=nearness if check.deeper(self.attack) else None,
            passes=passes,
            broken=broken if within else None,
        )


def _after(before: ResultRow, row: ResultRow) -> ResultRow:
    """What a further search says of an image. The order in which images were taken remains part of the result."""
    part = row.part if before.part == "screened" else before.part
    return replace(row, part=part, value=before.value, passes=before.passes + row.passes)


def _larger(one: float | None, other: float | None) -> float | None:
    """The larger value, or the one that there is."""
    return max((value for value in (one, other) if value is not None), default=None)
