"""Units of work: what one job does. A unit is a stage, a model, some of its cells and a block of images.

Blocks begin and end where the parts do that a run in one process attacks (ADR 4), so the same images meet in a batch,
and results do not depend on the number of jobs.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any, ClassVar, Protocol

import torch

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence.check import AbstractCellCheck, checks_of, is_finished
from robustbench_bcos.bench.request import Request, explains_its_own
from robustbench_bcos.bench.rows import DistanceRow, SmoothedRow, TimingRow
from robustbench_bcos.bench.schedule import PASSES_PER_EXPLANATION
from robustbench_bcos.bench.stages.attack import BATCHES
from robustbench_bcos.bench.stages.distances import DOUBLINGS, FEWEST_STEPS, REPEATED, TRIES
from robustbench_bcos.bench.store import Store
from robustbench_bcos.certificates import CERTIFICATES
from robustbench_bcos.core.disk import slug
from robustbench_bcos.model_zoo.models import Model, ModelSource

TIMED = 16
"""Images of the batch whose passes are timed, at most."""

GPU = 50
"""Times that a GPU is taken to be as fast as the processor that plans for it, until jobs have been measured."""

BLOCKS_A_WORKER = 4
"""Units that each of a known number of workers gets at least, so that none is idle at the end."""


FEWEST = 32
"""Images of a batch, at least, where batches are smaller so that each worker has some."""


class _Work(Protocol):
    """A record of one model's part in a run."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def run(self) -> str:
        """Digest of the run."""

    @property
    def model(self) -> str:
        """Its name."""


def name_of(unit: _Work, stage: str) -> str:
    """A unit as part of a file's name: the same unit has the same, and no other unit has it."""
    said = json.dumps(asdict(unit), sort_keys=True).encode()
    return f"{unit.run}-{stage}-{slug(unit.model)}-{blake2b(said, digest_size=6).hexdigest()}"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one job does."""

    run: str
    """Digest of the run's identity."""
    stage: str
    """Its name in the runner."""
    model: str
    """Its name."""
    cells: tuple[int, ...]
    """Positions among the cells of the run."""
    start: int
    """Position of its first image in the evaluation subset."""
    stop: int
    """Position behind its last image."""
    batch_size: int
    """Images that are worked on together: the same for all units of a model, whatever machine they are on."""

    @property
    def name(self) -> str:
        """As part of a file's name."""
        return name_of(self, self.stage)

    def __str__(self) -> str:
        images = f", images {self.start} to {self.stop - 1} of the subset" if self.stage in BLOCKWISE else ""
        return f"{self.stage} of {self.model} in {len(self.cells)} cells{images}"


BLOCKWISE = ("attack", "distances", "certify")
"""Stages that are cut into blocks of images; the others look at the images of a cell together."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A unit that is to be carried out."""

    unit: Unit
    work: tuple[tuple[Cell, int], ...]
    """Images of each cell that it counts for in a display of progress."""
    seconds: float
    """What it takes at most, about."""

    @property
    def images(self) -> int:
        """All of these images."""
        return sum(count for _, count in self.work)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What is known of a model before it is attacked."""

    batch_size: int
    pass_seconds: float
    """Of a forward or a backward pass of one image."""

    @classmethod
    def of(cls, request: Request, source: ModelSource, store: Store, workers: int | None) -> "Costs":
        """Measured: of attacks that the run has carried out already, or else of one batch.

        Args:
            request: what to do.
            source: the model.
            store: of the run.
            workers: units that are worked on at the same time, where that is known.
        """
        model = request.models.get(source)
        size = request.batch_size(model).images
        if workers is not None and request.device == "cpu" and request.config.batch_size is None:
            # Parts of full batches may be fewer than workers, and on a CPU small batches are as fast.
            blocks = -(-BLOCKS_A_WORKER * workers // len(request.sources))
            most = -(-len(request.subset) // (blocks * _batches_of_a_part(request.cells_of(source))))
            size = min(size, max(FEWEST, most))
        attacked = passes = 0.0
        for cell in request.cells_of(source):
            rows = [row for row in store.select(TimingRow, cell=cell.key, work="attack") if row.images]
            attacked += sum(row.seconds for row in rows)
            passes += cell.attack.passes * sum(row.images for row in rows)
        if passes:
            return cls(batch_size=size, pass_seconds=attacked / passes)
        return cls(batch_size=size, pass_seconds=_timed(request, model, size) / (GPU if request.elsewhere else 1))


def _batches_of_a_part(cells: Sequence[Cell]) -> int:
    return BATCHES if any(cell.attack.refills for cell in cells) else 1


def _timed(request: Request, model: Model, size: int) -> float:
    images = request.subset.batch(0, min(size, TIMED)).images.to(request.device)
    seconds = 0.0
    for _ in range(2):  # The first warms up.
        began = time.perf_counter()
        shown = images.clone().requires_grad_()
        with torch.enable_grad():
            logits = model.attack_model(shown)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), shown, allow_unused=True)
        logits.sum().item()  # GPUs work on after a call has come back.
        seconds = time.perf_counter() - began
    return seconds / (2 * len(images))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the work of a run is cut; it depends on what the run is and on how long its parts take."""

    request: Request
    costs: Mapping[str, Costs]
    """By model."""
    run: str
    """Digest of the run's identity."""
    seconds: float
    """What a job should take."""
    workers: int | None
    """Units that are worked on at the same time, where that is known."""

    def waves(self) -> tuple[tuple[str, ...], ...]:
        """Stages that need nothing of one another, after the stages before them are done everywhere."""
        config = self.request.config
        later = [
            *(["explain"] if self.request.explained is not None else []),
            *(["evidence"] if config.evidence != "off" else []),
            *(["distances"] if config.distances else []),
            *(["fool"] if self.request.fooled is not None else []),
            *(["certify"] if config.certify else []),
        ]
        return (("attack",), tuple(later))

    def missing(self, stages: Sequence[str], known: Store) -> list[Planned]:
        """The units of some stages that are not done, those that take longest first."""
        found = [planned for stage in stages for planned in self._of_stage(stage, known)]
        return sorted(found, key=lambda planned: (-planned.seconds, planned.unit.name))

    def _of_stage(self, stage: str, known: Store) -> Iterator[Planned]:
        make = {
            "attack": self._attacks,
            "explain": self._explanations,
            "evidence": self._evidence,
            "distances": self._distances,
            "fool": self._fooled,
            "certify": self._certified,
        }[stage]
        for source in self.request.sources:
            yield from make(source, known)

    def _attacks(self, source: ModelSource, known: Store) -> Iterator[Planned]:
        cells, indices = self.request.cells_of(source), self.request.subset.indices
        clean = known.clean(source.name).keys()
        done = {cell: known.done(cell) for cell in cells}
        one = sum(cell.attack.passes for cell in cells) * self.costs[source.name].pass_seconds
        for start, stop in self._blocks(source, _batches_of_a_part(cells), one):
            images = indices[start:stop]
            left = [(cell, sum(image not in done[cell] for image in images)) for cell in cells]
            if any(count for _, count in left) or not clean >= set(images):
                unit = self._unit("attack", source, cells, start, stop)
                yield Planned(unit=unit, work=tuple(left), seconds=one * len(images))

    def _explanations(self, source: ModelSource, known: Store) -> Iterator[Planned]:
        request = self.request
        explained = request.explained
        assert explained is not None
        costs = {}
        for cell in request.cells_of(source):
            if not known.explained(cell) >= set(explained.indices):
                attack = 0 if explains_its_own(cell.attack) else cell.attack.in_full().passes
                costs[cell] = len(explained) * (attack + 4 * PASSES_PER_EXPLANATION)
        yield from self._of_cells("explain", source, costs, len(explained))

    def _evidence(self, source: ModelSource, known: Store) -> Iterator[Planned]:
        request = self.request
        checks = checks_of(request.config.evidence, AbstractCellCheck)
        costs = {}
        for cell in request.cells_of(source):
            if not is_finished(request.config.evidence, cell, known):
                full = sum(check.passes(cell.attack) for check in checks)
                costs[cell] = len(request.subset) * (full if request.config.evidence == "full" else cell.attack.passes)
        yield from self._of_cells("evidence", source, costs, len(checks) * request.work_of_a_check)

    def _distances(self, source: ModelSource, known: Store) -> Iterator[Planned]:
        norms: dict[str, list[Cell]] = {}
        for cell in self.request.cells_of(source):
            norms.setdefault(cell.threat.norm, []).append(cell)
        for norm, cells in norms.items():
            done = {row.image for row in known.select(DistanceRow, model=source.name, norm=norm)}
            steps = max(FEWEST_STEPS, *(cell.attack.effort for cell in cells))
            one = 2 * steps * (REPEATED + (TRIES + DOUBLINGS) / 2) * self.costs[source.name].pass_seconds
            for start, stop in self._blocks(source, 1, one):
                images = self.request.subset.indices[start:stop]
                if left := sum(image not in done for image in images):
                    unit = self._unit("distances", source, cells, start, stop)
                    yield Planned(unit=unit, work=((cells[-1], left),), seconds=one * len(images))

    def _fooled(self, source: ModelSource, known: Store) -> Iterator[Planned]:
        request = self.request
        images, config = len(request.fooled or ()), request.config
        searches = images * len(config.methods) * len(config.map_goals)
        missing = [cell for cell in request.moving_cells(request.cells_of(source)) if len(known.fooled(cell)) < images]
        yield from self._of_cells(
            "fool", source, {cell: searches * cell.attack.for_maps.passes for cell in missing}, images
        )

    def _certified(self, source: ModelSource, known: Store) -> Iterator[Planned]:
        asked = self.request.identity.smoothed
        assert asked is not None
        cell, kinds = self.request.cells_of(source)[0], len(asked.certificates) * len(asked.sigmas)
        done = {(row.certificate, row.sigma, row.image) for row in known.select(SmoothedRow, model=source.name)}
        passes = len(asked.sigmas) * sum(CERTIFICATES[name].passes(asked.draws) for name in asked.certificates)
        one = passes * self.costs[source.name].pass_seconds
        for start, stop in self._blocks(source, 1, one):
            images = self.request.subset.indices[start:stop]
            if left := kinds * len(images) - sum(image in images for _, _, image in done):
                unit = self._unit("certify", source, [cell], start, stop)
                yield Planned(unit=unit, work=((cell, left),), seconds=one * len(images))

    def _blocks(self, source: ModelSource, batches: int, one: float) -> Iterator[tuple[int, int]]:
        """Blocks of whole parts.

        Args:
            source: the model.
            batches: in a part.
            one: seconds that an image takes.
        """
        images, part = len(self.request.subset), batches * self.costs[source.name].batch_size
        seconds = self.seconds
        if self.workers is not None:
            whole = one * images * len(self.request.sources)
            seconds = min(seconds, whole / (BLOCKS_A_WORKER * self.workers))
        size = part * max(1, int(seconds / (one * part))) if one > 0 else images
        return ((start, min(start + size, images)) for start in range(0, images, size))

    def _of_cells(self, stage: str, source: ModelSource, passes: Mapping[Cell, int], images: int) -> Iterator[Planned]:
        """Units of cells that stay together up to the time of a job."""
        of_pass = self.costs[source.name].pass_seconds
        seconds = self.seconds
        if self.workers is not None:
            seconds = min(seconds, sum(passes.values()) * of_pass / BLOCKS_A_WORKER)
        together: list[list[Cell]] = []
        taken = float("inf")
        for cell, count in passes.items():
            taken += of_pass * count
            if taken > seconds:
                together.append([])
                taken = of_pass * count
            together[-1].append(cell)
        for some in together:
            unit = self._unit(stage, source, some, 0, len(self.request.subset))
            taken = of_pass * sum(passes[cell] for cell in some)
            yield Planned(unit=unit, work=tuple((cell, images) for cell in some), seconds=taken)

    def _unit(self, stage: str, source: ModelSource, cells: Sequence[Cell], start: int, stop: int) -> Unit:
        return Unit(
            run=self.run,
            stage=stage,
            model=source.name,
            cells=tuple(self.request.cells.index(cell) for cell in cells),
            start=start,
            stop=stop,
            batch_size=self.costs[source.name].batch_size,
        )


def of_unit(request: Request, unit: Unit) -> Request:
    """The request with the images of a unit alone."""
    if unit.stage not in BLOCKWISE:
        return request
    subset = request.subset
    return replace(request, block=replace(subset, indices=subset.indices[unit.start : unit.stop]))
