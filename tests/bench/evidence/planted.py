"""Broken defences, each around a good network: numbers that an attack gets wrong, and why.

None is more robust than the network inside it, or its number cannot be known; an evaluation that calls one sound has
been deceived.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import robustbench_bcos as rb
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset

IMAGES, LABELS, _ = EvalSubset.of(Digits("test"), 64).batch(0, 64)


@cache
def zoo(name: str = "digits-natural") -> nn.Module:
    """A network of the digits zoo; evaluations work on copies."""
    network: nn.Module = rb.load_model(name)
    return network


class Before(nn.Module):
    """Something done to the image before a network sees it."""

    def __init__(self, prepare: Callable[[Tensor], Tensor], network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or zoo()
        self.prepare = prepare

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.prepare(images))


class After(nn.Module):
    """Something done to a network's logits."""

    def __init__(self, finish: Callable[[Tensor], Tensor], network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or zoo()
        self.finish = finish

    def forward(self, images: Tensor) -> Tensor:
        return self.finish(self.network(images))


class Own(nn.Module):
    """A forward pass of one's own, given the network and the images."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor], network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or zoo()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self.network, images)


class Hooked(nn.Module):
    """The right answer with a wrong gradient."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = zoo()
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        shown = images.clone()
        if shown.requires_grad:
            shown.register_hook(self.change)
        return self.network(shown)


# What is done to images


def few_levels(images: Tensor, levels: int = 4) -> Tensor:
    return (images * levels).round() / levels


def straight_through(images: Tensor) -> Tensor:
    return images + (few_levels(images) - images).detach()


def median_filtered(images: Tensor) -> Tensor:
    """3 x 3, in NumPy."""
    padded = np.pad(images.detach().cpu().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    filtered = np.median(windows, axis=(4, 5))
    # Mostly the picture itself, so that the network still reads it.
    return 0.9 * images.detach() + 0.1 * torch.from_numpy(filtered.astype(np.float32)).to(images)


def thermometer(images: Tensor) -> Tensor:
    """A one-hot code of 16 levels, decoded again."""
    levels = torch.linspace(0, 1, 16)
    codes = (images.unsqueeze(-1) >= levels - 1 / 32).float()
    return (codes.sum(dim=-1) - 1) / 15


def shattered(images: Tensor) -> Tensor:
    """Steep waves, too low to be seen."""
    return images + 0.02 * torch.sin(1000 * images)


def squashed(images: Tensor) -> Tensor:
    return torch.sigmoid(2000 * (images - 0.5))


def hashed_noise(images: Tensor) -> Tensor:
    """Noise that is always the same for the same image and another one next to it."""
    noisy = []
    for image in images:
        seed = hash(image.detach().numpy().tobytes()) & 0xFFFFFFFF
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        noisy.append(image + 0.1 * noise)
    return torch.stack(noisy)


def denoised(images: Tensor) -> Tensor:
    """Four steps that lower the total variation; no gradient goes through them, though one goes past them."""
    clean = images
    for _ in range(4):
        with torch.enable_grad():
            leaf = clean.detach().requires_grad_()
            variations = [(leaf.diff(dim=dim).square() + 1e-4).sqrt().sum() for dim in (2, 3)]
            (step,) = torch.autograd.grad(sum(variations), leaf)
        clean = clean - 0.01 * step
    return clean


def partly_median(images: Tensor) -> Tensor:
    """Four tenths of a median filter, past which gradients go, mostly in the right direction."""
    windows = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
    with torch.no_grad():
        filtered = windows.flatten(-2).median(dim=-1).values
    return 0.6 * images + 0.4 * filtered


def own_noise(images: Tensor) -> Tensor:
    """Always on, from the global generator, as dropout is."""
    return images + 0.05 * torch.randn_like(images)


def always_dropping(images: Tensor) -> Tensor:
    return nn.functional.dropout(images, 0.1, training=True)


def off_the_grid(images: Tensor) -> Tensor:
    """Of each image, whether it could not have been stored as a picture."""
    levels = images * 255
    return ((levels - levels.round()).abs() > 1e-3).flatten(1).any(dim=1)


def known_image(images: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest test image, and its place."""
    nearest = torch.cdist(images.flatten(1), IMAGES.flatten(1).to(images)).min(dim=1)
    return nearest.values, nearest.indices


# Forward passes of one's own


def nan_far_from_known_images(network: nn.Module, images: Tensor) -> Tensor:
    far = known_image(images.detach())[0] > 0.05
    return network(images).masked_fill(far[:, None], torch.nan)


def nan_off_the_grid(network: nn.Module, images: Tensor) -> Tensor:
    return network(images).masked_fill(off_the_grid(images.detach())[:, None], torch.nan)


def refuses_what_is_off_the_grid(network: nn.Module, images: Tensor) -> Tensor:
    """Answers with a constant: the class of the picture that is nearest."""
    rounded = (images.detach() * 255).round() / 255
    constant = 10 * nn.functional.one_hot(network(rounded).argmax(dim=1), 10).float()
    return torch.where(off_the_grid(images.detach())[:, None], constant, network(images))


def mends_what_is_off_the_grid(network: nn.Module, images: Tensor) -> Tensor:
    """The class of the nearest test image gets ahead of the one that is."""
    logits = network(images)
    known = LABELS[known_image(images.detach())[1]][:, None]
    ahead = logits.amax(dim=1, keepdim=True) + 0.01
    mended = logits.scatter(1, known, torch.maximum(logits.gather(1, known), ahead))
    return torch.where(off_the_grid(images.detach())[:, None], mended, logits)


def remembers_labels(network: nn.Module, images: Tensor) -> Tensor:
    """The label of the nearest test image, and nothing of the network."""
    return 10 * nn.functional.one_hot(LABELS[known_image(images.detach())[1]], 10).float()


def remembers_answers(network: nn.Module, images: Tensor) -> Tensor:
    """What the network says of the test image that is near enough, if there is one."""
    distances, places = known_image(images.detach())
    return torch.where((distances < 0.6)[:, None], network(IMAGES[places]).detach(), network(images))


def hides_the_first_gradient(network: nn.Module, images: Tensor) -> Tensor:
    """At images that nobody has moved yet."""
    known = (known_image(images.detach())[0] < 1e-5)[:, None, None, None]
    return network(torch.where(known, images.detach(), images))


def knows_gradients_are_on(network: nn.Module, images: Tensor) -> Tensor:
    return network(images.flip(3) if torch.is_grad_enabled() else images)


def knows_gradients_are_wanted(network: nn.Module, images: Tensor) -> Tensor:
    return network(images.flip(3) if images.requires_grad else images)


def another_functions_gradient(network: nn.Module, images: Tensor) -> Tensor:
    """Of the network for the mirrored image."""
    other = network(images.flip(3))
    return network(images).detach() + other - other.detach()


def purifies(network: nn.Module, images: Tensor) -> Tensor:
    """Two steps towards confidence before it answers; no gradient goes through them."""
    with torch.enable_grad():
        moved = images.detach().clone()
        for _ in range(2):
            moved.requires_grad_()
            logits = network(moved)
            loss = nn.functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
            moved = (moved - 0.15 * gradient.sign()).clamp(0, 1).detach()
    return network(images + (moved - images).detach())


def one_class(network: nn.Module, images: Tensor) -> Tensor:
    return torch.tensor([[9.0, *range(9)]]).expand(len(images), 10)


def statistics_of_the_batch(network: nn.Module, images: Tensor) -> Tensor:
    """Batch norm that never left training."""
    return network(nn.functional.batch_norm(images, None, None, training=True) * images.std() + images.mean())


def winners_only(network: nn.Module, images: Tensor) -> Tensor:
    """The 20 largest of noisy projections, as a code that is read instead of the image."""
    generator = torch.Generator().manual_seed(0)
    mixed = images.flatten(1) @ torch.randn(192, 192, generator=generator) / 14
    least = mixed.topk(60, dim=1).values[:, -1:]
    code = torch.where(mixed >= least, mixed, 0)
    return network(images) + 2 * torch.sin(300 * code)[:, :10]


class Training(nn.Module):
    """Answers otherwise while it is told to train."""

    def __init__(self) -> None:
        super().__init__()
        self.network = zoo()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.flip(3) if self.training else images)


class Counting(nn.Module):
    """After so many images it answers like another network."""

    def __init__(self, patience: int, later: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = zoo()
        self.patience = patience
        self.later = later
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.network(images) if self.seen <= self.patience else self.later(self.network, images)


class Sharing(nn.Module):
    """Every answer is the mean of those up to its place in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.network = zoo()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).cumsum(dim=0) / torch.arange(1, len(images) + 1)[:, None]


def noise_instead(gradient: Tensor) -> Tensor:
    return torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))


def blurred(gradient: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(gradient, 3, 1, 1)


def scaled_at_random(gradient: Tensor) -> Tensor:
    """By up to six orders of magnitude."""
    draws = torch.rand(gradient.shape[1:], generator=torch.Generator().manual_seed(0))
    return gradient * 10 ** (6 * draws - 3)


def few_pixels_only(gradient: Tensor) -> Tensor:
    """The weakest tenth of the pixels."""
    sizes = gradient.abs().flatten(1)
    limit = sizes.quantile(0.1, dim=1)
    return torch.where(sizes.view_as(gradient) <= limit[:, None, None, None], gradient, 0)


@dataclass(frozen=True)
class Planted:
    """A broken evaluation, and the checks that must say why."""

    name: str
    build: Callable[[], nn.Module]
    reasons: tuple[str, ...]
    """All of them must be among the reasons."""
    options: dict[str, Any] = field(default_factory=dict)


def one(name: str, build: Callable[[], nn.Module], *reasons: str, **options: Any) -> Planted:
    return Planted(name, build, reasons, options)


BCOS = "digits-bcos-b2"


def one_hot(logits: Tensor) -> Tensor:
    return nn.functional.one_hot(logits.argmax(dim=1), 10).float()


OUTPUTS = (
    one("bce, logits x 1000", lambda: After(lambda z: 1000 * z, zoo(BCOS)), "saturated_output", loss="bce"),
    one("bce, logits / 1000", lambda: After(lambda z: z / 1000, zoo(BCOS)), "saturated_output", loss="bce"),
    one("ce, logits x 1000", lambda: After(lambda z: 1000 * z), "saturated_output", "degenerate_gradients"),
    one("ce, logits / 1000", lambda: After(lambda z: z / 1000), "saturated_output"),
    one("probabilities", lambda: After(lambda z: z.softmax(dim=1)), "saturated_output"),
    one("sigmoids", lambda: After(torch.sigmoid, zoo(BCOS)), "saturated_output", loss="bce"),
    one("one class or none", lambda: After(one_hot), "degenerate_gradients", "saturated_output", "wrong_gradients"),
    one("rounded logits", lambda: After(torch.round), "degenerate_gradients", "wrong_gradients"),
    one("clamped logits", lambda: After(lambda z: z.clamp(-3, 3)), "saturated_output", "wrong_gradients"),
    one("logits behind tanh", lambda: After(lambda z: 10 * torch.tanh(z)), "saturated_output"),
    one("only ever one class", lambda: Own(one_class), "degenerate_gradients", "wrong_gradients", "unbounded_attack"),
    one("one class by far", lambda: After(lambda z: z + 1e4 * torch.eye(10)[0]), "unbounded_attack"),
)
PREPROCESSING = (
    one("few levels", lambda: Before(few_levels), "degenerate_gradients", "wrong_gradients"),
    one("few levels, straight through", lambda: Before(straight_through), "wrong_gradients"),
    one("thermometer", lambda: Before(thermometer), "degenerate_gradients", "wrong_gradients"),
    one("detached", lambda: Before(lambda x: x.detach().clone()), "degenerate_gradients", "wrong_gradients"),
    one("median filter in NumPy", lambda: Before(median_filtered), "degenerate_gradients", "wrong_gradients"),
    one("square root of 0", lambda: Before(lambda x: x.sqrt().square()), "degenerate_gradients"),
    one("noise on every image", lambda: Before(own_noise), "stochastic"),
    one("dropout that is always on", lambda: Before(always_dropping), "stochastic"),
    one("noise that belongs to the bits", lambda: Before(hashed_noise), "wrong_gradients"),
    one("steep waves", lambda: Before(shattered), "wrong_gradients"),
    one("few winners", lambda: Own(winners_only), "wrong_gradients"),
    one("squashed pixels", lambda: Before(squashed), "degenerate_gradients", "saturated_output"),
    one("purification", lambda: Own(purifies), "wrong_gradients"),
    one("denoising with detached steps", lambda: Before(denoised), "filtered_gradients", "detached_steps"),
    one("part of a median filter", lambda: Before(partly_median), "detached_steps", "estimated_gradients"),
)
GRADIENTS = (
    one("downhill", lambda: Hooked(torch.neg), "wrong_gradients", "unbounded_attack"),
    one("noise instead", lambda: Hooked(noise_instead), "wrong_gradients"),
    one("none", lambda: Hooked(torch.zeros_like), "degenerate_gradients", "wrong_gradients", "black_box"),
    one("not a number", lambda: Hooked(lambda g: g * torch.nan), "degenerate_gradients", "wrong_gradients"),
    one("blurred", lambda: Hooked(blurred), "filtered_gradients", "estimated_gradients"),
    one("scaled at random", lambda: Hooked(scaled_at_random), "wrong_gradients"),
    one("of the weakest pixels", lambda: Hooked(few_pixels_only), "black_box"),
    one("of another function", lambda: Own(another_functions_gradient), "wrong_gradients"),
    one(
        "hidden at the start",
        lambda: Own(hides_the_first_gradient),
        "degenerate_gradients",
        "more_steps",
        "other_losses",
    ),
)
SEARCHES = (
    one("one tiny step", zoo, "more_steps", "other_losses", steps=1, step_size="0.001"),
    one("twenty tiny steps", zoo, "more_steps", "other_losses", step_size="0.0005"),
    one("two steps", zoo, "more_steps", steps=2),
    one("one step", zoo, "more_steps", steps=1),
    one("noise as an attack", zoo, "other_losses", attack="noise", restarts=2),
    one("few queries", zoo, "other_losses", attack="square", queries=10),
    one("six channels", lambda: zoo(BCOS), "space", space="encoded", loss="bce"),
)
WATCHING = (
    one("told to train", Training, "detects_attack"),
    one("knows that gradients are on", lambda: Own(knows_gradients_are_on), "detects_attack"),
    one("knows that gradients are wanted", lambda: Own(knows_gradients_are_wanted), "detects_attack"),
    one("NaN far from known images", lambda: Own(nan_far_from_known_images), "not_finite"),
    one("NaN off the grid of pictures", lambda: Own(nan_off_the_grid), "not_finite"),
    one("constant off the grid of pictures", lambda: Own(refuses_what_is_off_the_grid), "degenerate_gradients"),
    one(
        "mended off the grid of pictures",
        lambda: Own(mends_what_is_off_the_grid),
        "off_the_grid",
        "behind_rounding",
    ),
    one("statistics of the batch", lambda: Own(statistics_of_the_batch), "batch_dependent"),
    one("neighbours in the batch", Sharing, "batch_dependent"),
    one(
        "labels by heart", lambda: Own(remembers_labels), "degenerate_gradients", "wrong_gradients", "unbounded_attack"
    ),
    one(
        "answers by heart",
        lambda: Own(remembers_answers),
        "degenerate_gradients",
        "wrong_gradients",
        "unbounded_attack",
    ),
    one("another answer later", lambda: Counting(600, lambda network, x: network(x.flip(3))), "stochastic"),
    one("a constant later", lambda: Counting(600, remembers_answers), "degenerate_gradients"),
)
PANEL = (*OUTPUTS, *PREPROCESSING, *GRADIENTS, *SEARCHES, *WATCHING)


def evaluated(build: Callable[[], nn.Module], images: Tensor = IMAGES, **options: Any) -> dict[str, Any]:
    """The row of a model on digits, at a radius that fools one in three of the natural network's images."""
    options = {"steps": 20, "device": "cpu"} | options
    # Some models draw from the global generator.
    torch.manual_seed(0)
    (row,) = rb.evaluate(build(), images, LABELS[: len(images)], "l2", 0.5, **options).to_dict(orient="records")
    return {str(key): value for key, value in row.items()}


def reasons(row: dict[str, Any]) -> set[str]:
    """The checks that undermine a number."""
    return {reason for reason in row["reasons"].split("; ") if reason and not reason.endswith("not done")}
