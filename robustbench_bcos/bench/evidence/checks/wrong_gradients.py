"""Whether the model's gradients are those of its outputs."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found


@final
@CHECKS.registered("wrong_gradients")
class WrongGradients(AbstractModelCheck):
    """An attack that follows a wrong gradient finds nothing, and its failure says nothing."""

    asks = "whose margin does not grow along its gradient"
    rule = "any"
    of_misses = True

    def examine(self, model: ModelContext) -> Found:
        """Growth of the margin along parts of its gradient."""
        from robustbench_bcos.bench.evidence import answers

        return answers.gradient_matches_finite_differences(model.classifier, model.images, model.labels)
