"""Whether the model's gradients are all there."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found


@final
@CHECKS.registered("filtered_gradients")
class FilteredGradients(AbstractModelCheck):
    """A gradient that was blurred, or skips steps of the model, leads uphill and away from most that can be found."""

    asks = "whose margin grows in directions that its gradient says nothing of"
    rule = "any"
    of_misses = True

    def examine(self, model: ModelContext) -> Found:
        """Growth of the margin in random directions."""
        from robustbench_bcos.bench.evidence import answers

        rng = model.rng.fold_in(self.name)
        return answers.gradient_lacks_nothing(model.classifier, model.images, model.labels, rng)
