"""Whether a random model that is averaged predicts the same with other draws."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.prediction import predicted_classes


@final
@CHECKS.registered("other_draws")
class OtherDraws(AbstractModelCheck):
    """An average of too few draws is another model for every seed, and so is its robust accuracy."""

    asks = "predicted otherwise by an average of other draws"
    rule = "share"

    def examine(self, model: ModelContext) -> Found:
        """Predictions of as many other draws; a model that draws nothing has none."""
        from robustbench_bcos.model_zoo.draws import draws_of, other_draws

        if draws_of(model.classifier) == 1:
            return Found(against=torch.zeros_like(model.labels, dtype=torch.bool), passes=0)
        with torch.no_grad(), other_draws(model.classifier):
            others = predicted_classes(model.classifier(model.images))
        return Found(against=others != model.predictions, passes=draws_of(model.classifier))
