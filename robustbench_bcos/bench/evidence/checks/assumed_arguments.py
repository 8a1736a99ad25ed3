"""Whether what had to be assumed of a weights file fits the data."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found


@final
@CHECKS.registered("assumed_arguments")
class AssumedArguments(AbstractModelCheck):
    """B is not in the weights: a network that was trained with another one loads, and answers worse."""

    asks = "classified correctly only if another value is assumed of an argument that the weights leave open"
    rule = "any"

    def examine(self, model: ModelContext) -> Found:
        """The model, beside the same weights with other arguments."""
        from robustbench_bcos.bench.evidence.alternatives import CERTAIN_IF_ASSUMED

        return model.compare(model.alternatives, CERTAIN_IF_ASSUMED).found(str)
