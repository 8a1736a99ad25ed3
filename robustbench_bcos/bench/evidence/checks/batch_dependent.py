"""Whether the model's answer depends on the other images."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found


@final
@CHECKS.registered("batch_dependent")
class BatchDependent(AbstractModelCheck):
    """The number would be another one for other batches."""

    asks = "given other logits next to other images"
    rule = "any"

    def examine(self, model: ModelContext) -> Found:
        """Images alone, compared with the same images at other places of two batches."""
        from robustbench_bcos.bench.evidence import answers

        return answers.batch_independence(model.classifier, model.images)
