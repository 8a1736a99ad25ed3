"""Whether the model answers the same when it is asked again."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found


@final
@CHECKS.registered("stochastic")
class Stochastic(AbstractModelCheck):
    """An attack on a random model fails at draws that the next query does not repeat."""

    asks = "given other logits when asked again"
    rule = "any"

    def examine(self, model: ModelContext) -> Found:
        """Answers of now, and predictions of the time before the attacks."""
        from robustbench_bcos.bench.evidence import answers

        found = answers.determinism(model.classifier, model.images)
        changed = answers.predictions_changed(model.classifier, model.images, model.predictions)
        return Found(against=found.against | changed, values=found.values, passes=found.passes + 1)
