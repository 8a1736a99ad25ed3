"""Whether a model answers as the function does that an attack assumes, measured on a few images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.gradients import image_gradient, usable, usable_gradient
from robustbench_bcos.attacks.losses.margin import margin
from robustbench_bcos.attacks.norms.l2 import L2
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.core.prediction import are_probabilities
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.text import counted
from robustbench_bcos.core.types import Classifier, Flags, Images, Labels, Logits, PerImage

ASKED = 16
"""Images of the subset that a model is asked about, the first ones."""

REPETITIONS = 4
"""How often it is asked again."""

FEW = 4
"""Images that it is asked about before a run, where it is asked at once."""

SAME = 1e-4
"""Relative distance of logits that counts as float noise (AutoAttack's threshold for randomised models)."""

SAME_IN_ANY_BATCH = 1e-3
"""The same, where kernels may be others."""

UNDERFLOW = 104.0
"""Gap between the two largest logits above which the slope of a cross-entropy is 0 in float32."""

FLAT = 0.1
"""Range of logits below which a cross-entropy ascends all wrong classes alike."""

STRIDES = (1e-3, 1e-2, 1e-1)
"""Lengths in the 2-norm at which a margin is looked at along its gradient."""

PARTS = 4
"""Parts of a gradient, by the size of its entries, along which it is compared with what happens."""

AGREEMENT = 0.8
"""Cosine between promised and real growth along the parts, at the best stride, below which a gradient is wrong. Those
of honest networks have 0.99 and more."""

REACH = 0.2
"""Share of the growth promised by the smallest stride that the longest must see, in the median. Honest networks see
0.5 and more."""

DIRECTIONS = 32
"""Random directions along which growth is compared with what a gradient promises."""

FOLLOWED = 8
"""Images of which it is, the first ones."""

PIXEL_STRIDES = (1e-3, 1e-2, 3e-2)
"""How far every pixel goes in such a direction: as little as float32 shows, or more where that shows noise. The last
one is also the width of the noise that takes images off their edges, where pools have no single gradient."""

WHOLE = 0.9
"""Median cosine between promised and real growth along them, at the best stride, below which parts of a gradient are
missing. Honest networks have 0.99 and more, a gradient that was blurred 0.5."""

TINY = 1e-300
"""A norm that is not 0."""


def determinism(classifier: nn.Module, images: Images) -> Found:
    """Distance of further answers from the first, on the same images."""
    first = _logits(classifier, images)
    again = [_distance(_logits(classifier, images), first) for _ in range(REPETITIONS)]
    distances = torch.stack(again).amax(dim=0)
    return Found(against=distances > SAME, values=distances, passes=1 + REPETITIONS)


def is_random(classifier: nn.Module, images: Images) -> bool:
    """Whether a model answers differently when it is asked again."""
    return bool(determinism(classifier, images).against.any())


def predictions_changed(classifier: nn.Module, images: Images, predictions: Labels) -> Flags:
    """Whether other classes are predicted than at an earlier time, by more than float noise."""
    logits = _logits(classifier, images)
    ahead = logits.amax(dim=1) - logits.gather(1, predictions.clamp(min=0)[:, None]).squeeze(1)
    noise = SAME_IN_ANY_BATCH * torch.linalg.vector_norm(logits, dim=1)
    other: Tensor = (ahead > noise) | (predictions < 0) | ~logits.isfinite().all(dim=1)
    return other


def batch_independence(classifier: nn.Module, images: Images) -> Found:
    """Distance of answers to images on their own from those to the same images among others, at any place.

    All of them together, and twice as many: dependence may begin with a size, or with a place.
    """
    single = torch.cat([_logits(classifier, images[place : place + 1]) for place in range(len(images))])
    once, twice = _logits(classifier, images), _logits(classifier, torch.cat([images.flip(0), images]))
    flipped, again = twice.tensor_split(2)
    distances = torch.stack([_distance(single, among) for among in (once, flipped.flip(0), again)]).amax(dim=0)
    return Found(against=distances > SAME_IN_ANY_BATCH, values=distances, passes=4)


def gradient_mode_invariance(classifier: nn.Module, images: Images) -> Found:
    """Distance of answers with gradients, or with modules in training mode, from answers without."""
    plain = _logits(classifier, images)
    with torch.enable_grad():
        attacked = classifier(images.clone().requires_grad_()).detach()
    distances = _distance(attacked, plain)
    with _training(classifier):
        first, second = _tensor(classifier, images), _tensor(classifier, images)
    # Two answers that differ come from dropout, which an honest model has in training.
    if first is not None and second is not None and first.shape == plain.shape and torch.equal(first, second):
        distances = torch.maximum(distances, _distance(first, plain))
    return Found(against=distances > SAME, values=distances, passes=4)


def logit_scale(classifier: nn.Module, images: Images) -> Found:
    """Range of each image's logits; against the model where they are probabilities, or far too large or too small.

    And where the largest logit has come to an end that no pixel moves it from, though other images are below it.
    The finding says which.
    """
    with torch.enable_grad():
        leaf = images.clone().requires_grad_()
        answers = classifier(leaf)
        logits = answers.detach().double()
        ordered = logits.sort(dim=1, descending=True)
        largest = torch.zeros_like(answers).scatter(1, ordered.indices[:, :1], 1.0)
        immovable = usable(image_gradient(answers, leaf, largest)).degenerate
    ranges, gaps = ordered.values[:, 0] - ordered.values[:, -1], ordered.values[:, 0] - ordered.values[:, 1]
    # A class may have no logit of its own, but 0 for every image.
    varies = logits.amax(dim=0) > logits.amin(dim=0)
    stuck = immovable & varies[ordered.indices[:, 0]]
    of_all = {
        "they are probabilities, and not logits": bool(((logits >= 0) & (logits <= 1)).all())
        or are_probabilities(logits),
        f"the two largest logits are more than {UNDERFLOW:g} apart": bool(gaps.median() > UNDERFLOW),
        f"all logits of an image are within {FLAT:g}": bool(ranges.median() < FLAT),
    }
    seen = [what for what, so in of_all.items() if so]
    if stuck.any():
        seen.append(f"the largest logit of {counted(int(stuck.sum()), 'image')} has a gradient that is 0 or not finite")
    return Found(against=stuck | any(of_all.values()), values=ranges, passes=2, finding="; ".join(seen))


def gradient_matches_finite_differences(classifier: nn.Module, images: Images, labels: Labels) -> Found:
    """How far the growth of the margin is from what its gradient promises: 0 where it is proportional to it, 2 at most.

    Looked at along parts of the gradient, its smallest entries by themselves and its largest by themselves, so that
    neither its sign nor its shape can be wrong; its scale may be. And looked at along all of it: where the margin
    follows for the smallest stride alone, the slope is that of a ripple, which leads nowhere.
    """
    with torch.enable_grad():
        leaf = images.clone().requires_grad_()
        logits = classifier(leaf)
        gradient = usable_gradient(margin, logits, leaf, labels).gradient
    before = margin(logits.detach().double(), labels)
    agreements, reaches = [], []
    for stride in STRIDES:
        pairs = []
        for part in (gradient, *_by_size(gradient)):
            # A pixel at the edge of the box cannot follow its gradient out of it, and nothing is promised of it.
            moved = (images + stride * L2().steepest_ascent(part)).clamp(0, 1)
            promised = (gradient.double() * (moved - images).double()).flatten(1).sum(dim=1)
            pairs.append((promised, margin(_logits(classifier, moved).double(), labels) - before))
        promises, growths = (torch.stack(column, dim=1) for column in zip(*pairs, strict=True))
        agreements.append(torch.cosine_similarity(promises[:, 1:], growths[:, 1:], dim=1, eps=TINY).nan_to_num(-1.0))
        reaches.append((growths[:, 0] / promises[:, 0]).nan_to_num(0.0))
    agreement = torch.stack(agreements).amax(dim=0)
    ripples = bool(reaches[-1].median() < REACH * reaches[0].median())
    passes = 2 + len(STRIDES) * (1 + PARTS)
    return Found(against=(agreement < AGREEMENT) | ripples, values=1 - agreement, passes=passes)


def gradient_lacks_nothing(classifier: nn.Module, images: Images, labels: Labels, rng: PerImageRng) -> Found:
    """How far the margin's growth in random directions is from what its gradient promises: 0 to 2, as a distance.

    Along a gradient, what is missing from it cannot be seen: one that was filtered still leads uphill, and past most
    of what there is to find.
    """
    images, labels = images[:FOLLOWED], labels[:FOLLOWED]
    sources, inset = rng.select(range(len(images)))(0), PIXEL_STRIDES[-1]
    noise = torch.stack([torch.rand(images.shape[1:], generator=source) for source in sources]).to(images)
    middle = images.clamp(2 * inset, 1 - 2 * inset) + (2 * noise - 1) * inset
    drawn = [torch.randint(0, 2, (DIRECTIONS, *images.shape[1:]), generator=source) for source in sources]
    directions = torch.stack(drawn, dim=1).to(images) * 2 - 1
    with torch.enable_grad():
        leaf = middle.clone().requires_grad_()
        gradient = usable_gradient(margin, classifier(leaf), leaf, labels).gradient.double()
    agreement, passes = torch.full((len(images),), -1.0, dtype=torch.float64, device=images.device), 2
    for stride in PIXEL_STRIDES:
        if agreement.median() >= WHOLE:
            break
        pairs = []
        for direction in directions:
            ahead, behind = middle + stride * direction, middle - stride * direction
            promised = (gradient * (ahead - behind).double()).flatten(1).sum(dim=1)
            growth = margin(_logits(classifier, ahead).double(), labels)
            pairs.append((promised, growth - margin(_logits(classifier, behind).double(), labels)))
        promises, growths = (torch.stack(column, dim=1) for column in zip(*pairs, strict=True))
        found = torch.cosine_similarity(promises, growths, dim=1, eps=TINY).nan_to_num(-1.0)
        agreement, passes = torch.maximum(agreement, found), passes + 2 * DIRECTIONS
    filtered = agreement.median() < WHOLE
    return Found(against=(agreement < WHOLE) & filtered, values=1 - agreement, passes=passes)


def _logits(classifier: Classifier, images: Images) -> Logits:
    with torch.no_grad():
        logits: Tensor = classifier(images)
    return logits


def _by_size(gradient: Images) -> list[Images]:
    """Parts of equally many entries each, the smallest first, 0 elsewhere."""
    flat = gradient.flatten(1)
    parts = []
    for places in flat.abs().argsort(dim=1).tensor_split(PARTS, dim=1):
        part = torch.zeros_like(flat)
        parts.append(part.scatter(1, places, flat.gather(1, places)).view_as(gradient))
    return parts


def _tensor(classifier: Classifier, images: Images) -> Tensor | None:
    """Logits, unless a model in training fails or has more to say, as those with auxiliary heads do."""
    try:
        answer = _logits(classifier, images)
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return None
    return answer if isinstance(answer, Tensor) else None


def _distance(logits: Logits, others: Logits) -> PerImage:
    """Relative distance of each image's logits; infinite where either is not finite."""
    away = torch.linalg.vector_norm((logits - others).double(), dim=1)
    size = torch.linalg.vector_norm(others.double(), dim=1)
    relative: Tensor = away / torch.where(size > 0, size, 1)
    return relative.nan_to_num(nan=torch.inf)


@contextmanager
def _training(classifier: nn.Module) -> Iterator[None]:
    """Switch modules to training whose answer should not depend on it: own ones without running statistics."""
    switched = [module for module in classifier.modules() if not module.training and _should_not_care(module)]
    try:
        for module in switched:
            module.training = True
        yield
    finally:
        for module in switched:
            module.training = False


def _should_not_care(module: nn.Module) -> bool:
    library = type(module).__module__.partition(".")[0] in ("torch", "torchvision", "timm")
    return not library and next(module.buffers(recurse=False), None) is None
