"""Whether one number per image is a probability, which is taken for a logit."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found


@final
@CHECKS.registered("one_probability")
class OneProbability(AbstractModelCheck):
    """A probability is never negative, so that a model that gives it as its logit never predicts the first class."""

    asks = "answered with one number in [0, 1], a probability, which counts as a logit of the second class"
    rule = "any"

    def examine(self, model: ModelContext) -> Found:
        """The sign of every image's one logit."""
        from robustbench_bcos.core.deferred import torch
        from robustbench_bcos.core.prediction import are_of_one_probability

        with torch.no_grad():
            logits = model.classifier(model.images)
        against = torch.full((len(logits),), are_of_one_probability(logits), device=logits.device)
        finding = "it is the output of a sigmoid, and not a logit: return what the sigmoid is given"
        return Found(against=against, passes=1, finding=finding if bool(against.any()) else "")
