"""Whether labels and outputs count the classes in different orders."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.class_order import Reordered, find_order
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext


@final
@CHECKS.registered("class_order")
class ClassOrder(AbstractVerdictsCheck):
    """A model that is right counts as wrong where its outputs are not in the order of the labels."""

    asks = "misclassified as they are labelled, though right in another order of the classes"
    rule = "any"
    always = True

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """The images that another order makes right; none where it may be chance."""
        found = _find(verdicts)
        gained = 0 if found is None else int((found.right_if_read & ~found.right).sum())
        return len(verdicts.clean), gained

    def finding(self, verdicts: VerdictsContext) -> str:
        """Both counts, and the order of the first classes."""
        found = _find(verdicts)
        return "" if found is None else found.words()


def _find(verdicts: VerdictsContext) -> Reordered | None:
    if verdicts.adversarial:
        # Of two classes, all are taken for the other one.
        return None
    labels = [row.label for row in verdicts.clean]
    return find_order(labels, [row.prediction for row in verdicts.clean], verdicts.classes)
