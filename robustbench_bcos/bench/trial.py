"""A search and its judgement: what attacks propose on the fast twin of a model is judged on the model itself."""

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_bcos.attacks.attack import Attack, AttackResult, Trace
from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.bench.judge import Verdicts, judge
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.prediction import in_parts, predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images, Labels


class Tried(NamedTuple):
    """What was proposed for each image, and what the judge says of it."""

    candidates: Images
    trace: Trace
    verdicts: Verdicts


def try_images(
    attack: Attack,
    threat: AttackTarget,
    labels: Labels,
    ball: AbstractNorm,
    epsilon: float,
    generator: PerImageRng,
    *,
    subject: str,
    width: int | None = None,
) -> Tried:
    """Attack images and judge what comes of it.

    A candidate that fools the twin and not the model has been kept back by rounding, and with it all that the search
    would have tried next: such an image is searched again, on the model itself.

    Args:
        attack: the search.
        threat: what is attacked.
        labels: classes of its images.
        ball: the norm of the threat.
        epsilon: its radius.
        generator: the source of randomness, which knows the images' indices.
        subject: named in an error.
        width: images to ask about at a time, all by default. An attack knows its own.
    """
    first = attack(threat.searched, threat.images, labels, ball, epsilon, generator)
    asked = in_parts(threat.classifier, width or len(labels))
    verdicts = judge(asked, threat.images, first.candidates, ball, epsilon, cell=subject, indices=generator.indices)
    disputed = _disputed(threat, first, verdicts, labels, width)
    if len(disputed):
        places = disputed.tolist()
        exact = AttackTarget(threat.classifier, threat.images[disputed], threat.classifier)
        again = try_images(
            attack, exact, labels[disputed], ball, epsilon, generator.select(places), subject=subject, width=width
        )
        first.candidates[disputed] = again.candidates
        first.trace.include(again.trace, disputed)
        for whole, part in zip(verdicts, again.verdicts, strict=True):
            whole[disputed] = part
    return Tried(first.candidates, first.trace, verdicts)


@torch.no_grad()
def _disputed(
    threat: AttackTarget, proposal: AttackResult, verdicts: Verdicts, labels: Labels, width: int | None
) -> Tensor:
    """Positions of candidates that fool the twin and not the model."""
    withstood = (verdicts.predictions == labels).nonzero().squeeze(1)
    if threat.searched is threat.classifier or len(withstood) == 0:
        return withstood[:0]
    said = predicted_classes(in_parts(threat.searched, width or len(labels))(proposal.candidates[withstood]))
    return withstood[said != labels[withstood]]
