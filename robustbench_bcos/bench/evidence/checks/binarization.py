"""Whether the attack finds an adversarial example that is known to exist."""

from collections.abc import Iterator
from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck, NotApplicable
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.rows import ResultRow


@final
@CHECKS.registered("binarization")
class Binarization(AbstractCellCheck):
    """Zimmermann et al. (2022): a read-out of the network's features with a planted adversarial example."""

    asks = "whose planted adversarial example the attack does not find"
    rule = "share"
    of_misses = True
    full_only = True

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """Image by image, because each has a read-out of its own."""
        from robustbench_bcos.bench.evidence.binarization import Features, binarize

        usable = 0
        for image in cell.first_correct():
            target = cell.target([image], stream=self.name)
            try:
                features = Features(target.classifier, target.images)
            except ValueError as reason:
                raise NotApplicable(str(reason)) from None
            answer = binarize(features, cell.attack, target.images, target.threat, target.rng)
            usable += answer.usable
            if answer.usable:
                yield cell.row(self, image, against=not answer.found, passes=answer.passes)
        if not usable:
            raise NotApplicable("no read-out of its features is hard enough for random points and can be fitted")
