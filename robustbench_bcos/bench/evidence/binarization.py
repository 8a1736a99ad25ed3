"""The binarization test (Zimmermann et al., 2022): would the attack find an adversarial example that is known to exist?

Around one image, points well inside the ball become one class and a point on its boundary the other: a linear read-out
of the network's own features is fitted to tell them apart. Whatever hides the network's gradients hides those of the
read-out. An attack that cannot find the other class, though it is there, finds nothing elsewhere either.

B-cos networks end in a B-cos convolution, a pool and a bias, so there is no linear layer to replace: the read-out takes
the globally pooled features that go into the last layer, for every network alike.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images

INNER_POINTS = 999
"""Points inside at most; fewer where there are not enough features."""

FEWEST_FEATURES = 16
"""With fewer, there are hardly points to tell apart; a network of one module takes in nothing but colours."""

GAP = 0.05
"""How far inside they stay, as a share of the radius."""

EASY = 0.5
"""Share of random points that fool, above which a read-out says nothing about an attack."""

RANDOM_POINTS = 200


class Answer(NamedTuple):
    """The outcome for one image."""

    usable: bool
    """Whether a read-out could be fitted, and random points do not find what the attack is to find."""
    found: bool
    """Whether the attack found the other class."""
    passes: int


class ReadOut(nn.Module):
    """Two logits from a network's features: inside, and on the boundary."""

    def __init__(self, features: "Features", weights: Tensor, bias: Tensor) -> None:
        super().__init__()
        self._features = features
        self._weights = weights
        self._bias = bias

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        value = self._features(images) @ self._weights + self._bias
        return torch.stack([-value, value], dim=1)


class Features:
    """What goes into the last layer of a network, pooled over positions."""

    def __init__(self, model: nn.Module, images: Images) -> None:
        self._model = model
        self._layer = _last_layer(model, images)
        with torch.no_grad():
            features = self(images.repeat(2, 1, 1, 1))
        # A model that averages its draws, say, shows its last layer one image at a time.
        if len(features) != 2 * len(images):
            raise ValueError("its last layer is not shown all images of a batch at once")
        if (count := features.shape[1]) < FEWEST_FEATURES:
            raise ValueError(f"its last layer takes in only {count} features")

    def __call__(self, images: Tensor) -> Tensor:
        """Images to features, with their gradients."""
        seen: list[Tensor] = []
        handle = self._layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self._model(images)
        finally:
            handle.remove()
        features = seen[-1]
        return features.flatten(2).mean(dim=2) if features.dim() > 2 else features


def binarize(features: Features, attack: AbstractAttack, image: Images, threat: Threat, rng: PerImageRng) -> Answer:
    """The test around one image (a batch of one).

    Args:
        features: of the network.
        attack: as in the cell, with its own settings.
        image: in [0, 1].
        threat: to stay within.
        rng: of one image.
    """
    (source,) = rng(0)
    inside = Threat.of(threat.norm, (1 - GAP) * threat.radius)
    shape = image.shape[1:]
    with torch.no_grad():
        size = features(image).shape[1]
        inner = _around(inside.sample(shape, [source] * _inner_points(size)), image)
        boundary = _around(threat.sample_sphere(shape, [source]), image)
        points = features(torch.cat([image, inner, boundary])).double()
        random = _around(threat.sample_sphere(shape, [source] * RANDOM_POINTS), image)
        spent = len(points) + len(random) + 1
        fitted = _fit(points)
        if fitted is None:
            return Answer(usable=False, found=False, passes=spent)
        read_out = ReadOut(features, *(part.to(image) for part in fitted))
        easy = float((read_out(random)[:, 1] > 0).double().mean()) > EASY
    label = torch.zeros(1, dtype=torch.long, device=image.device)
    adversarials, trace = attack(read_out, image, label, threat, rng=rng.fold_in(1))
    with torch.no_grad():
        found = bool(read_out(adversarials)[0, 1] > 0)
    passes = spent + int(trace.forward_passes + trace.backward_passes)
    return Answer(usable=not easy, found=found, passes=passes)


def _fit(points: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weights and bias of the shortest read-out that is -1 at all points but the last, and 1 there."""
    aims = torch.full((len(points),), -1.0, dtype=torch.float64, device=points.device)
    aims[-1] = 1.0
    centre, spread = points.mean(dim=0), points.std(dim=0).clamp(min=1e-12)
    rows = torch.cat([(points - centre) / spread, torch.ones_like(points[:, :1])], dim=1)
    solution = torch.linalg.pinv(rows) @ aims
    if not torch.equal((rows @ solution).sign(), aims.sign()):
        return None
    weights = solution[:-1] / spread
    return weights, solution[-1] - centre @ weights


def _inner_points(features: int) -> int:
    """Fewer points than features, the image and the boundary point counted."""
    return max(1, min(INNER_POINTS, features - 3))


def _around(perturbations: Images, image: Tensor) -> Images:
    return (image + perturbations.to(image)).clamp(0, 1)


def _last_layer(model: nn.Module, images: Images) -> nn.Module:
    """The last layer that makes the logits' channels out of another number of channels.

    Raises:
        ValueError: there is none that can be seen.
    """
    found: list[tuple[int, nn.Module]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if (
            module is not model
            and inputs
            and all(isinstance(part, Tensor) and part.dim() in (2, 4) for part in (inputs[0], output))
            and output.shape[1] != inputs[0].shape[1]
        ):
            found.append((output.shape[1], module))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            classes = model(images).shape[1]
    finally:
        for handle in handles:
            handle.remove()
    heads = [module for channels, module in found if channels == classes]
    # Of modules within one another the innermost: what surrounds it takes in more than features.
    heads = [head for head in heads if not any(part in heads for part in head.modules() if part is not head)]
    if not heads:
        raise ValueError("its last layer is not a module of its own")
    return heads[-1]
