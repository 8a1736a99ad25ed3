"""Whether the model notices that it is attacked."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found


@final
@CHECKS.registered("detects_attack")
class DetectsAttack(AbstractModelCheck):
    """Its answer must not depend on whether gradients are asked for."""

    asks = "given other logits with gradients, or in training mode, though no layer explains it"
    rule = "any"

    def examine(self, model: ModelContext) -> Found:
        """Answers with gradients, compared with answers without."""
        from robustbench_bcos.bench.evidence import answers

        return answers.gradient_mode_invariance(model.classifier, model.images)
