"""Whether there is anything to see on the images."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.core.deferred import torch


@final
@CHECKS.registered("monotonous_images")
class MonotonousImages(AbstractModelCheck):
    """Files that were read wrongly become black or white, and no attack changes what a model says of them."""

    asks = "among images that are all the same, or each of a single colour"
    rule = "any"

    def examine(self, model: ModelContext) -> Found:
        """All images speak against the number, or none."""
        from robustbench_bcos.data.variety import Variety

        variety = Variety()
        variety.see(model.images)
        return Found(against=torch.full((len(model.images),), variety.monotonous), passes=0)
