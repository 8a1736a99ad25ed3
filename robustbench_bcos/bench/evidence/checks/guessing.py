"""Whether the model knows the classes better than a guess does."""

from collections import Counter
from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext
from robustbench_bcos.core.statistics import binomial_greater

CHANCE = 0.05
"""P value of a clean accuracy above which it may be that of guesses."""


@final
@CHECKS.registered("guessing")
class Guessing(AbstractVerdictsCheck):
    """Labels, classes or pixels that are not those of the model leave it guessing, and its robustness says nothing."""

    asks = "misclassified without an attack, which is what guesses do"
    rule = "any"
    always = True

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """The misclassified images, where so many cannot be told from those of guesses; otherwise none.

        Guesses are right as often as the commonest label, or one in so many classes.
        """
        total = len(verdicts.clean)
        right = sum(row.prediction == row.label for row in verdicts.clean)
        common = max(Counter(row.label for row in verdicts.clean).values(), default=0)
        # One less, because among few images of many labels some label is the commonest.
        guessed = max((common - 1) / max(total, 1), 1 / verdicts.classes)
        # Adversarial images say nothing; of too few, or of one label alone, even the best model could not do better.
        decides = guessed**total <= CHANCE and not verdicts.adversarial
        guesses = decides and binomial_greater(right, total, guessed) > CHANCE
        return total, total - right if guesses else 0
