"""An attack and its judgement: what attacks propose on the fast copy of a model is judged on the model itself.

What stays robust is judged a second time as a picture holds it, in 256 levels: a model may know that no picture is
what attacks show it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, Trace
from robustbench_bcos.attacks.halts import Frames, Steps, finished, split, within
from robustbench_bcos.bench.judge import Verdicts, judge
from robustbench_bcos.bench.rounding import towards
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.prediction import in_parts
from robustbench_bcos.core.types import Flags, Images


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What was proposed for each image, and what the judge says of it."""

    adversarials: Images
    trace: Trace
    verdicts: Verdicts
    rounded: Flags
    """Successes in 256 levels alone."""


def attack_and_judge(
    attack: AbstractAttack, target: AttackTarget, *, subject: str, batch_size: int | None = None
) -> Judged:
    """Attack images and judge what comes of it.

    An image that is broken on the fast copy and not on the model has been kept back by rounding, and with it everything
    that the search would have tried next: such an image is searched again, on the model itself.

    Args:
        attack: the search.
        target: what is attacked.
        subject: named in an error.
        batch_size: images that a network is shown at a time, all by default.
    """
    return finished(search_and_judge(attack, target, subject=subject, batch_size=batch_size))


def search_and_judge(
    attack: AbstractAttack,
    target: AttackTarget,
    *,
    subject: str,
    batch_size: int | None = None,
    left: Frames = (),
) -> Steps[Judged]:
    """:func:`attack_and_judge`, with halts on the way.

    Args:
        attack: as there.
        target: as there.
        subject: as there.
        batch_size: as there.
        left: the frames of a halt that it goes on from, of the same images in batches of the same size.
    """
    size = batch_size or max(1, len(target.images))
    mine, inner = split(left)
    if mine:
        found, inner_again = AttackResult.of(mine), inner
    else:
        found, inner_again = (yield from within({}, attack.walk(target.problem(size), inner))), ()
    verdicts = judge(target, found.adversarials, subject=subject, batch_size=size)
    disputed = mine["disputed"] if mine else _disputed(target, found, verdicts, size)
    if len(disputed):
        again = yield from within(
            {"disputed": disputed, **found.frame},
            search_and_judge(attack, target.select(disputed).slow, subject=subject, batch_size=size, left=inner_again),
            stage="again on the model itself",
            done=len(found.adversarials) - len(disputed),
        )
        found.adversarials[disputed] = again.adversarials
        found.trace.include(again.trace, disputed)
        verdicts.replace(disputed, again.verdicts)
    standing = (~verdicts.success).nonzero().squeeze(1)
    rounded = torch.zeros_like(verdicts.success)
    if len(standing):
        levels = towards(target.images[standing], found.adversarials[standing])
        second = judge(target.select(standing), levels, subject=f"{subject}, in 256 levels", batch_size=size)
        fallen = second.success.nonzero().squeeze(1)
        found.adversarials[standing[fallen]] = levels[fallen]
        verdicts.replace(standing[fallen], second.select(fallen))
        rounded[standing[fallen]] = True
    return Judged(adversarials=found.adversarials, trace=found.trace, verdicts=verdicts, rounded=rounded)


@torch.no_grad()
def _disputed(target: AttackTarget, found: AttackResult, verdicts: Verdicts, batch_size: int) -> Tensor:
    """Positions of images that are broken on the fast copy and not on the model."""
    robust = (~verdicts.success).nonzero().squeeze(1)
    if target.attack_model is target.classifier or len(robust) == 0:
        return robust[:0]
    outputs = in_parts(target.attack_model, batch_size)(found.adversarials[robust])
    return robust[target.criterion.success(outputs, target.goals[robust])]
