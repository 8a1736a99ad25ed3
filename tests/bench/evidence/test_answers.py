"""A look at a model before any attack: each answer both ways, on models of a few lines."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench.evidence import answers
from robustbench_bcos.bench.evidence.answers import (
    batch_independence,
    determinism,
    gradient_lacks_nothing,
    gradient_matches_finite_differences,
    gradient_mode_invariance,
    logit_scale,
)
from robustbench_bcos.bench.evidence.check import AbstractModelCheck, checks_of
from robustbench_bcos.bench.evidence.checks.monotonous_images import MonotonousImages
from robustbench_bcos.bench.evidence.checks.stochastic import Stochastic
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset

pytestmark = pytest.mark.usefixtures("whole_second_search")

IMAGES = torch.rand(9, 3, 4, 5, generator=torch.Generator().manual_seed(0))
MIXED = torch.randn(60, 7, generator=torch.Generator().manual_seed(1))


def smooth(images: Tensor) -> Tensor:
    """Logits of seven classes, with a little curvature."""
    return torch.tanh((images - 0.5).flatten(1) @ MIXED / 4) * 5


LABELS = smooth(IMAGES).argmax(dim=1)


class Model(nn.Module):
    """A function as a module, with whatever layers it needs to be told to train."""

    def __init__(self, run: Callable[[Tensor], Tensor] = smooth, *layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.layers = nn.ModuleList(layers)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.run(images)
        for layer in self.layers:
            logits = layer(logits)
        return logits


def model(run: Callable[[Tensor], Tensor] = smooth, *layers: nn.Module) -> nn.Module:
    return Model(run, *layers).eval()


every_check = pytest.mark.parametrize("check", checks_of("full", AbstractModelCheck), ids=lambda check: check.name)


def examined(check: AbstractModelCheck, asked: nn.Module, images: Tensor = IMAGES, before: Tensor = LABELS) -> Found:
    """What the check finds, where the model predicted other classes before the attacks, say."""
    subset = EvalSubset.of(InMemory(images, LABELS[: len(images)], classes=7))
    context = ModelContext(
        classifier=asked,
        images=images,
        labels=LABELS,
        predictions=before,
        subset=subset,
        rng=PerImageRng.of(0, range(len(images))),
    )
    return check.examine(context)


@every_check
def test_nothing_speaks_against_a_function(check: AbstractModelCheck) -> None:
    found = examined(check, model())
    assert not found.against.any()
    assert found.broken is None


@every_check
def test_an_answer_leaves_model_images_and_modes_as_they_were(check: AbstractModelCheck) -> None:
    asked, images = model(smooth, nn.BatchNorm1d(7), nn.Dropout(0.5)), IMAGES.clone()
    before = {key: value.clone() for key, value in asked.state_dict().items()}
    examined(check, asked, images)
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad
    assert not any(module.training for module in asked.modules())
    assert all(torch.equal(value, before[key]) for key, value in asked.state_dict().items())


@every_check
def test_passes_are_counted(check: AbstractModelCheck) -> None:
    """Forward passes of the whole batch, and a backward pass for every time a gradient is asked for."""
    calls = []

    def counted(images: Tensor) -> Tensor:
        calls.append(len(images))
        if images.requires_grad:
            images.register_hook(lambda gradient: calls.append(len(gradient)))
        return smooth(images)

    found = examined(check, model(counted))
    assert isinstance(found.passes, int)
    # Images that are asked about alone are a pass together.
    assert sum(calls) == found.passes * len(found.against)


# Asked again


def test_answers_that_change_are_stochastic_and_float_noise_is_not() -> None:
    drawn = torch.Generator().manual_seed(2)
    for noise, differs in ((1e-2, True), (1e-6, False)):
        noisy = model(lambda x, noise=noise: smooth(x) + noise * torch.randn(len(x), 7, generator=drawn))
        assert determinism(noisy, IMAGES).against.all().item() is differs


def test_an_answer_that_changes_once_in_a_while_is_stochastic() -> None:
    calls = iter(range(100))
    seldom = model(lambda x: smooth(x) + (next(calls) == 4))
    assert determinism(seldom, IMAGES).against.all()


def test_logits_that_are_not_finite_are_never_the_same() -> None:
    broken = determinism(model(lambda x: smooth(x) / 0), IMAGES)
    assert broken.against.all()
    assert broken.values is not None
    assert broken.values.isinf().all()


def test_logits_that_are_all_0_are_the_same() -> None:
    assert not determinism(model(lambda x: 0 * smooth(x)), IMAGES).against.any()


def test_a_model_that_predicted_other_classes_before_the_attacks_is_stochastic() -> None:
    """Though it gives the same answers whenever it is asked now."""
    before = LABELS.clone()
    before[2] = (before[2] + 1) % 7
    assert examined(Stochastic(), model(), before=before).against.tolist() == [place == 2 for place in range(9)]


def test_a_class_that_is_ahead_by_float_noise_is_no_change() -> None:
    tied = model(lambda x: torch.cat([smooth(x), smooth(x).amax(dim=1, keepdim=True) + 1e-5], dim=1))
    assert not examined(Stochastic(), tied).against.any()


# Asked alone


@pytest.mark.parametrize(
    "run",
    [
        lambda x: smooth(x - x.mean(dim=0) + 0.5),
        lambda x: smooth(x) + len(x),
        lambda x: smooth(x) + 0.1 * torch.arange(len(x))[:, None],
        lambda x: smooth(x) + 0.1 * (torch.arange(len(x)) == 6)[:, None],
        lambda x: smooth(x) + 0.1 * (torch.arange(len(x)) == 13)[:, None],
        lambda x: smooth(x) + 0.1 * (len(x) >= 16),
        lambda x: smooth(x) + 0.1 * (torch.arange(len(x)) % 8 == 7)[:, None],
    ],
    ids=["statistics", "size", "place", "seventh", "fourteenth", "sixteen", "last of eight"],
)
def test_answers_that_depend_on_other_images_are_batch_dependent(run: Callable[[Tensor], Tensor]) -> None:
    assert batch_independence(model(run), IMAGES).against.any()


def test_every_image_is_asked_about_alone() -> None:
    assert len(batch_independence(model(), IMAGES).against) == len(IMAGES)
    assert len(batch_independence(model(), IMAGES[:1]).against) == 1


# Asked by an attacker


def test_another_answer_where_gradients_are_on_or_wanted_detects_attacks() -> None:
    switched_on = model(lambda x: smooth(x) + torch.is_grad_enabled())
    wanted = model(lambda x: smooth(x) + x.requires_grad)
    for asked in (switched_on, wanted):
        assert gradient_mode_invariance(asked, IMAGES).against.all()


class Own(nn.Module):
    """A layer of one's own that is told to train."""

    def __init__(self, trained: float) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.trained if self.training else logits


class OwnDropout(nn.Module):
    """Two answers that differ are dropout."""

    def forward(self, logits: Tensor) -> Tensor:
        drawn = torch.rand(logits.shape)
        return logits * drawn if self.training else logits


class Auxiliary(nn.Module):
    """More to say in training, as some networks have."""

    def forward(self, logits: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (logits, logits) if self.training else logits


class Failing(nn.Module):
    """Not to be trained."""

    def forward(self, logits: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("it is frozen")
        return logits


class OwnStatistics(nn.Module):
    """Running statistics, which training may use otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(7))

    def forward(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(dim=0) if self.training else logits - self.mean


def test_another_answer_when_told_to_train_detects_attacks() -> None:
    assert gradient_mode_invariance(model(smooth, Own(1.0)), IMAGES).against.all()


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.5), nn.BatchNorm1d(7), Own(0.0), OwnDropout(), Auxiliary(), Failing(), OwnStatistics()],
    ids=lambda layer: type(layer).__name__,
)
def test_what_layers_do_in_training_is_not_held_against_them(layer: nn.Module) -> None:
    torch.manual_seed(0)
    asked = model(smooth, layer)
    assert not gradient_mode_invariance(asked, IMAGES).against.any()
    assert not any(module.training for module in asked.modules())


# The scale of logits


@pytest.mark.parametrize(
    ("finish", "seen"),
    [
        (lambda z: z, ""),
        (lambda z: 20 * z, ""),
        (lambda z: z / 20, ""),
        (lambda z: 1000 * z, "the two largest logits are more than 104 apart"),
        (lambda z: z / 1000, "all logits of an image are within 0.1"),
        (lambda z: z.softmax(dim=1), "they are probabilities, and not logits"),
        (torch.sigmoid, "they are probabilities, and not logits"),
        (lambda z: z.log_softmax(dim=1), ""),
        (lambda z: torch.cat([0 * z[:, :1], z[:, 1:] - 6], dim=1), ""),
        (lambda z: (40 * z).tanh(), "the largest logit of 9 images has a gradient that is 0 or not finite"),
        (lambda z: z.clamp(max=1), "the largest logit of 9 images has a gradient that is 0 or not finite"),
    ],
    ids=["plain", "x20", "/20", "x1000", "/1000", "softmax", "sigmoid", "log-softmax", "reference", "tanh", "clamped"],
)
def test_probabilities_and_scales_that_hide_every_gradient_are_saturated(
    finish: Callable[[Tensor], Tensor], seen: str
) -> None:
    found = logit_scale(model(lambda x: finish(smooth(x))), IMAGES)
    assert found.finding == seen
    assert found.against.any().item() is bool(seen)


def test_the_range_of_logits_is_told() -> None:
    values = logit_scale(model(), IMAGES).values
    logits = smooth(IMAGES)
    assert values is not None
    assert torch.allclose(values, (logits.amax(dim=1) - logits.amin(dim=1)).double())


# Gradients


def hooked(change: Callable[[Tensor], Tensor]) -> nn.Module:
    def run(images: Tensor) -> Tensor:
        shown = images.clone()
        if shown.requires_grad:
            shown.register_hook(change)
        return smooth(shown)

    return model(run)


def test_the_disagreement_of_a_true_gradient_is_0() -> None:
    values = gradient_matches_finite_differences(model(), IMAGES, LABELS).values
    assert values is not None
    # The function bends a little, and its gradient is measured in float32.
    assert values.abs().max() < 1e-3


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_the_scale_of_a_gradient_may_be_wrong(factor: float) -> None:
    assert not gradient_matches_finite_differences(
        hooked(lambda gradient: factor * gradient), IMAGES, LABELS
    ).against.any()


@pytest.mark.parametrize(
    "change",
    [
        torch.neg,
        torch.zeros_like,
        lambda g: g * torch.nan,
        lambda g: g.abs(),
        lambda g: g.flip(3),
        lambda g: torch.where(torch.arange(5) < 2, -g, g),
        lambda g: g * torch.logspace(-3, 3, 60).view(3, 4, 5),
    ],
    ids=["sign", "zero", "nan", "absolute", "mirrored", "partly", "scaled"],
)
def test_a_gradient_of_another_sign_or_shape_is_wrong(change: Callable[[Tensor], Tensor]) -> None:
    assert gradient_matches_finite_differences(hooked(change), IMAGES, LABELS).against.any()


def test_a_gradient_that_was_cut_off_is_wrong() -> None:
    assert gradient_matches_finite_differences(model(lambda x: smooth(x.detach())), IMAGES, LABELS).against.all()
    assert gradient_matches_finite_differences(
        model(lambda x: smooth((4 * x).round() / 4)), IMAGES, LABELS
    ).against.all()


@pytest.mark.parametrize("size", [1e-2, 3e-2])
def test_the_slope_of_a_ripple_is_wrong_though_it_is_the_slope(size: float) -> None:
    assert gradient_matches_finite_differences(
        model(lambda x: smooth(x + size * torch.sin(1000 * x))), IMAGES, LABELS
    ).against.all()


def test_pixels_that_cannot_move_are_not_held_against_a_gradient() -> None:
    """At the edge of the box half of them point out of it."""
    edges = IMAGES.round()
    assert not gradient_matches_finite_differences(model(), edges, smooth(edges).argmax(dim=1)).against.any()


def test_images_that_are_misclassified_are_looked_at_too() -> None:
    assert not gradient_matches_finite_differences(model(), IMAGES, (LABELS + 1) % 7).against.any()
    assert gradient_matches_finite_differences(hooked(torch.neg), IMAGES, (LABELS + 1) % 7).against.all()


RNG = PerImageRng.of(0, range(9))


def blurred(gradient: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(gradient, 3, 1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_gradient_promises_growth_in_every_direction(seed: int) -> None:
    found = gradient_lacks_nothing(model(), IMAGES, LABELS, PerImageRng.of(seed, range(9)))
    assert not found.against.any()
    assert found.values is not None
    assert found.values.abs().max() < 1e-2
    assert found.passes == 2 + 2 * answers.DIRECTIONS


@pytest.mark.parametrize(
    "change",
    [
        blurred,
        lambda g: blurred(blurred(g)) * 100,
        lambda g: g * (torch.arange(5) < 2),
        lambda g: g.sign(),
        lambda g: g.mean(dim=1, keepdim=True).expand_as(g),
        torch.zeros_like,
        torch.neg,
    ],
    ids=["blurred", "twice", "columns", "signs", "grey", "zero", "downhill"],
)
def test_a_gradient_that_was_filtered_lacks_something(change: Callable[[Tensor], Tensor]) -> None:
    found = gradient_lacks_nothing(hooked(change), IMAGES, LABELS, RNG)
    assert found.against.sum() >= 4


def test_a_whole_gradient_of_which_float32_shows_little_is_looked_at_with_a_longer_stride() -> None:
    found = gradient_lacks_nothing(model(lambda x: smooth(x) * 4e-6 + 1), IMAGES, LABELS, RNG)
    assert not found.against.any()
    assert found.passes > 2 + 2 * answers.DIRECTIONS


def test_a_pool_over_a_single_colour_has_no_single_gradient_and_is_not_accused() -> None:
    black = torch.zeros(9, 3, 4, 5)
    pooled = model(lambda x: smooth(nn.functional.max_pool2d(x, 3, 1, 1)))
    assert not gradient_lacks_nothing(pooled, black, LABELS, RNG).against.any()


def test_thresholds_leave_room_for_honest_networks() -> None:
    """Between 0.99 or more for honest networks and 0 for random directions."""
    assert 0.8 <= answers.WHOLE <= 0.95
    assert 0.5 <= answers.AGREEMENT <= 0.9
    assert 0 < answers.REACH <= 0.25


@pytest.mark.parametrize(
    ("images", "against"),
    [
        (IMAGES, False),
        (IMAGES[:1].expand(9, -1, -1, -1), True),
        (IMAGES[..., :1, :1].expand(-1, -1, 4, 5), True),
        (torch.cat([IMAGES[:1], IMAGES[:8]]), False),
    ],
    ids=["noise", "one picture", "single colours", "one picture twice"],
)
def test_images_on_which_there_is_nothing_to_see_speak_against_every_number(images: Tensor, against: bool) -> None:
    assert examined(MonotonousImages(), model(), images).against.tolist() == [against] * 9
