"""How a request is carried out on this machine, and how much there is to do. None of it changes a number."""

import os
from dataclasses import dataclass

from robustbench_bcos.bench.evidence.check import AbstractCellCheck, checks_of
from robustbench_bcos.bench.request import Request, explains_its_own
from robustbench_bcos.certificates import CERTIFICATES

PASSES_PER_EXPLANATION = 4
"""Two forward passes, for the prediction and for the maps, and a backward pass for each of two classes."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Threads, and work for a display of progress."""

    request: Request

    @property
    def jobs(self) -> int:
        """Models to work on at the same time: where one thread is best for one, every core has its own."""
        if self.request.config.eot > 1:
            return 1  # threads share the generators that random models draw from
        if self.request.config.jobs is not None:
            return self.request.config.jobs
        alone = self.request.threads > 1 or self.request.device != "cpu"
        return 1 if alone else min(cores(), len(self.request.sources))

    @property
    def work(self) -> int:
        """Images of all cells: attacked ones, explained ones, and those that checks are likely to examine."""
        request = self.request
        images, explained = len(request.subset), len(request.explained or ())
        norms = {cell.threat.norm for cell in request.cells}
        distances = len(request.sources) * len(norms) * images if request.config.distances else 0
        checks = len(checks_of(request.config.evidence, AbstractCellCheck)) * request.work_of_a_check
        fooled = len(request.moving_cells(request.cells)) * len(request.fooled or ())
        return len(request.cells) * (images + explained + checks) + distances + fooled + self._certified

    @property
    def passes(self) -> int:
        """Forward and backward passes of one image at most, evidence and explanations by gradients included."""
        request = self.request
        explained = len(request.explained or ())
        attacks = sum(
            cell.attack.passes * (len(request.subset) + (0 if explains_its_own(cell.attack) else explained))
            for cell in request.cells
        )
        moved = len(request.fooled or ()) * len(request.config.methods) * len(request.config.map_goals)
        attacks += moved * sum(cell.attack.for_maps.passes for cell in request.moving_cells(request.cells))
        # Clean and other images once for each model, attacked and noisy ones for each cell.
        maps = 2 * len(request.sources) + 2 * len(request.cells)
        return attacks + self._evidence_passes + maps * PASSES_PER_EXPLANATION * explained + self._smoothed_passes

    @property
    def _certified(self) -> int:
        """Images of all models, for each certificate and sigma."""
        asked, request = self.request.identity.smoothed, self.request
        return len(asked.certificates) * len(asked.sigmas) * len(request.sources) * len(request.subset) if asked else 0

    @property
    def _smoothed_passes(self) -> int:
        asked, request = self.request.identity.smoothed, self.request
        if asked is None:
            return 0
        passes = sum(CERTIFICATES[name].passes(asked.draws) for name in asked.certificates)
        return passes * len(asked.sigmas) * len(request.sources) * len(request.subset)

    @property
    def _evidence_passes(self) -> int:
        """Upper bound, about, of the passes of evidence: those of the attack in ``quick``."""
        request, images = self.request, len(self.request.subset)
        if request.config.evidence == "full":
            checks = checks_of("full", AbstractCellCheck)
            return images * sum(check.passes(cell.attack) for cell in request.cells for check in checks)
        return images * sum(cell.attack.passes for cell in request.cells) * (request.config.evidence == "quick")


def cores() -> int:
    """CPU cores that this process may use; ``OMP_NUM_THREADS`` may say fewer."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, int(stated)) if stated.isdigit() and int(stated) > 0 else available
