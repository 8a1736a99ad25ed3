"""The checks, by name: what each asks, and what undermines a number.

Only words and rules, read without torch; how a check is carried out stands in its own module.
"""

from typing import Literal, NamedTuple

from robustbench_bcos.core.registry import Registry

Rule = Literal["any", "gradients", "share", "search", "report"]
"""``any``: one image suffices. ``gradients``: one image suffices that no search by gradients fooled. ``share``: more
images than chance explains. ``search``: more images than are repaired. ``report``: nothing is concluded."""

Scope = Literal["verdicts", "model", "cell"]
"""Where the answer is: in the verdicts of the run, in a look at the model, in a further attack on the cell's images."""

PAGE = "docs/reference/checks.md"

POINTS = 0.5
"""Percentage points by which a number may be too high."""


class Check(NamedTuple):
    """One question put to a number."""

    name: str
    asks: str
    """What must not be found, as the end of a sentence that begins with a count of images."""
    rule: Rule
    scope: Scope
    full_only: bool = False
    """Whether it is left out of ``--evidence quick``."""

    @property
    def link(self) -> str:
        """Where it is explained."""
        return f"{PAGE}#{self.name}"


CHECKS: Registry[Check] = Registry("check")


def _add(name: str, asks: str, rule: Rule, scope: Scope, *, full_only: bool = False) -> None:
    CHECKS.register(name, Check(name, asks, rule, scope, full_only))


_add(
    "space", "attacked in the space of the encoding, where r and 1 - r move apart and no picture is", "any", "verdicts"
)
_add("not_finite", "given NaN or infinite logits under attack", "any", "verdicts")
_add(
    "degenerate_gradients",
    "with a gradient that is 0 everywhere, NaN or infinite on the attack's way",
    "any",
    "verdicts",
)
_add("larger_ball", "fooled within a smaller radius and not by the same attack within this one", "search", "verdicts")
_add("other_attacks", "fooled by another attack of this run within this radius", "search", "verdicts")
_add("eight_bit", "fooled only before the pixels are rounded to k/255", "report", "verdicts")
_add("stochastic", "given other logits when asked again", "any", "model")
_add("batch_dependent", "given other logits beside other images", "any", "model")
_add(
    "detects_attack",
    "given other logits with gradients, or in training mode, though no layer explains it",
    "any",
    "model",
)
_add(
    "saturated_output",
    "given logits that are probabilities, or of a scale that no loss can be ascended on",
    "any",
    "model",
)
_add("wrong_gradients", "whose margin does not grow along its gradient", "any", "model")
_add("unbounded_attack", "still right when the attack may change every pixel at will", "any", "cell")
_add("noise", "fooled by random noise and by no search along gradients", "gradients", "cell")
_add("black_box", "fooled by Square and by no search along gradients", "gradients", "cell")
_add("transfer", "fooled by a candidate of another model and by no search along gradients", "gradients", "cell")
_add("more_steps", "fooled by four times the steps from a random start", "search", "cell")
_add("other_losses", "fooled by Auto-PGD with another loss", "search", "cell")
_add("binarization", "whose planted adversarial example the attack does not find", "share", "cell", full_only=True)
_add("unstable_loss", "whose loss changes by more than a tenth under small noise", "report", "cell", full_only=True)
_add("silent_success", "fooled on the attack's way and not at its end", "search", "cell", full_only=True)
_add("incomplete_search", "whose loss still rises in the last steps", "report", "cell", full_only=True)
_add("surrogate", "that the attacked and the judged model classify differently", "any", "cell", full_only=True)


def checks_of(evidence: str, scope: Scope) -> list[Check]:
    """The checks of ``quick`` or ``full`` evidence, in the order in which they are carried out."""
    if evidence == "off":
        return []
    chosen = [CHECKS[name] for name in CHECKS]
    return [check for check in chosen if check.scope == scope and (evidence == "full" or not check.full_only)]
