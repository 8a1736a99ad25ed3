"""Whether a loss of the outputs can be ascended at all."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found


@final
@CHECKS.registered("saturated_output")
class SaturatedOutput(AbstractModelCheck):
    """Probabilities, logits far apart or close together, and such as nothing moves leave losses without a slope."""

    asks = "given outputs on which losses have no slope, or hardly any"
    rule = "any"
    of_misses = True

    def examine(self, model: ModelContext) -> Found:
        """The range of each image's logits."""
        from robustbench_bcos.bench.evidence import answers

        return answers.logit_scale(model.classifier, model.images)
