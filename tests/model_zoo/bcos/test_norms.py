"""Norm layers against the official ones, alone; whole networks are compared with the architectures."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
import torch
from bcos.modules import norms as official
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.norms import NORM_LAYERS, Affine, make_norm

OFFICIAL: dict[str, Callable[[int], Any]] = {
    "none": lambda channels: nn.Identity(),
    "batch": official.centered_norms.BatchNorm2d,
    "batch-uncentred": official.BatchNormUncentered2d,
    "all": official.AllNorm2d,
    "all-uncentred": official.AllNormUncentered2d,
    "group": partial(official.DetachableGroupNorm2d, 2),
    "group-uncentred": partial(official.GroupNormUncentered2d, 2),
    "instance": official.DetachableGNInstanceNorm2d,
    "instance-uncentred": official.GNInstanceNormUncentered2d,
    "layer": official.DetachableGNLayerNorm2d,
    "layer-uncentred": official.GNLayerNormUncentered2d,
    "position": official.DetachablePositionNorm2d,
    "position-uncentred": official.PositionNormUncentered2d,
}
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "full": lambda make: make,
    "no-bias": official.NoBias,
    "none": official.Unaffine,
}
TRAINED = ["batch", "batch-uncentred", "all", "all-uncentred"]
"""Norms with running statistics."""
SCALES = [name for name in OFFICIAL if name.endswith("-uncentred")]
"""Norms that are a scale, when they have no bias."""
BOUNDED = ["group", "instance", "layer", "position"]
"""Centred norms whose statistics come from the image."""

# float64: the norms' epsilon of 1e-5 is visible at this tolerance, rounding is not.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def make_official(name: str, affine: Affine, channels: int) -> Any:
    return OFFICIAL[name](channels) if name == "none" else WRAPPERS[affine](OFFICIAL[name])(channels)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(seed: int = 0) -> Tensor:
    # Far from mean 0 and variance 1, and different in every channel.
    return normal(3, 4, 5, 6, seed=seed) * torch.tensor([0.2, 1.0, 2.0, 3.0]).view(4, 1, 1) + 1.5


def randomise(norm: nn.Module) -> None:
    """Weights of both signs, biases and running statistics away from their defaults."""
    for seed, (name, tensor) in enumerate(norm.state_dict().items()):
        if tensor.is_floating_point():
            values = normal(*tensor.shape, seed=seed).to(tensor.dtype)
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)


def make_pair(name: str, affine: Affine) -> tuple[nn.Module, Any]:
    ours, theirs = make_norm(name, affine, 4).double(), make_official(name, affine, 4).double()
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def value_and_gradients(norm: nn.Module, x: Tensor) -> dict[str, Tensor]:
    leaf = x.clone().requires_grad_()
    out = norm(leaf)
    names = ["input", *dict(norm.named_parameters())]
    gradients = torch.autograd.grad((out * normal(*out.shape, seed=9)).sum(), [leaf, *norm.parameters()])
    return {"output": out.detach(), **dict(zip(names, gradients, strict=True))}


def test_every_norm_has_an_official_counterpart() -> None:
    assert set(NORM_LAYERS) == set(OFFICIAL)
    assert set(get_args(Affine)) == set(WRAPPERS)


@pytest.mark.parametrize("affine", WRAPPERS)
@pytest.mark.parametrize("name", OFFICIAL)
def test_norm_equals_the_official_one_in_evaluation_with_and_without_explanation(name: str, affine: Affine) -> None:
    ours, theirs = make_pair(name, affine)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(value_and_gradients(ours, features()), value_and_gradients(theirs, features()), **CLOSE)
    if name != "none":
        theirs.set_explanation_mode(True)
    with explanation_mode(ours):
        explained = value_and_gradients(ours, features())
    torch.testing.assert_close(explained, value_and_gradients(theirs, features()), **CLOSE)


@pytest.mark.parametrize("explained", [False, True])
@pytest.mark.parametrize("momentum", [0.1, 0.75, None])
@pytest.mark.parametrize("affine", WRAPPERS)
@pytest.mark.parametrize("name", TRAINED)
def test_norm_equals_the_official_one_in_training(
    name: str, affine: Affine, momentum: float | None, explained: bool
) -> None:
    ours, theirs = make_pair(name, affine)
    ours.momentum = theirs.momentum = momentum
    if explained and name in SCALES:
        theirs.set_explanation_mode(True)
    for batch in range(3):
        x = features(seed=batch)
        with explanation_mode(ours if explained else nn.Identity()):
            trained = value_and_gradients(ours, x)
        torch.testing.assert_close(trained, value_and_gradients(theirs, x), **CLOSE)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), **CLOSE)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(features(seed=7)), theirs(features(seed=7)), **CLOSE)


@pytest.mark.parametrize("name", ["batch-uncentred", "all-uncentred"])
def test_running_variance_follows_the_biased_variance_and_the_running_mean_stays(name: str) -> None:
    norm = make_norm(name, "full", 4).double()
    x = features()
    norm(x)
    variance = x.var(dim=(0, 2, 3), correction=0) if name == "batch-uncentred" else x.var(correction=0).reshape(1)
    state = norm.state_dict()
    torch.testing.assert_close(state["running_var"], 0.9 + 0.1 * variance, **CLOSE)
    assert not state["running_mean"].any()
    assert state["num_batches_tracked"] == 1


@pytest.mark.parametrize("name", ["batch-uncentred", "all-uncentred"])
def test_running_mean_of_an_uncentred_norm_is_never_used(name: str) -> None:
    norm = make_norm(name, "full", 4).double().eval()
    before = norm(features())
    norm.get_buffer("running_mean").fill_(3)
    assert torch.equal(norm(features()), before)


@pytest.mark.parametrize("name", TRAINED)
def test_norm_in_evaluation_changes_no_statistics_and_does_not_see_the_rest_of_the_batch(name: str) -> None:
    norm = make_norm(name, "full", 4).double().eval()
    before = copy.deepcopy(norm.state_dict())
    together = norm(features())
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(norm(features()[1:2]), together[1:2], **CLOSE)


@pytest.mark.parametrize("name", [*BOUNDED, *SCALES])
def test_uncentred_norm_divides_by_the_deviation_about_the_mean_and_keeps_the_mean(name: str) -> None:
    x = features()
    grouped = {
        "batch": x.transpose(0, 1).flatten(1),
        "all": x.flatten()[None],
        "group": x.view(6, -1),
        "instance": x.view(12, -1),
        "layer": x.flatten(1),
        "position": x.movedim(1, -1).flatten(0, 2),
    }
    y = make_norm(name, "none", 4).double()(x)  # running statistics are not used in training
    kind = name.removesuffix("-uncentred")
    rows = grouped[kind]
    deviation = ((rows - rows.mean(dim=1, keepdim=True)).square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    expected = (rows if name in SCALES else rows - rows.mean(dim=1, keepdim=True)) / deviation
    regrouped = {
        "batch": y.transpose(0, 1).flatten(1),
        "all": y.flatten()[None],
        "position": y.movedim(1, -1).flatten(0, 2),
    }.get(kind, y.reshape(rows.shape))
    torch.testing.assert_close(regrouped, expected, **CLOSE)


@pytest.mark.parametrize("name", SCALES)
def test_uncentred_norm_without_bias_is_a_linear_map_of_its_input_when_explained(name: str) -> None:
    norm = make_pair(name, "no-bias")[0]
    x = features().requires_grad_()
    with explanation_mode(norm):
        out = norm(x)
    seed = normal(*out.shape, seed=5)
    (row,) = torch.autograd.grad(out, x, seed)
    torch.testing.assert_close((row * x).sum(), (seed * out).sum(), **CLOSE)


@pytest.mark.parametrize(("affine", "kept"), [("full", {"weight", "bias"}), ("no-bias", {"weight"}), ("none", set())])
@pytest.mark.parametrize("name", [name for name in OFFICIAL if name != "none"])
def test_affine_parameters_that_are_left_out_leave_the_state(name: str, affine: Affine, kept: set[str]) -> None:
    norm = make_norm(name, affine, 4)
    statistics = {"running_mean", "running_var", "num_batches_tracked"} if name in TRAINED else set()
    assert set(norm.state_dict()) == kept | statistics
    assert {parameter.numel() for parameter in norm.parameters()} <= ({1} if name.startswith("all") else {4})


@pytest.mark.parametrize("affine", WRAPPERS)
@pytest.mark.parametrize("name", OFFICIAL)
def test_constant_features_stay_finite(name: str, affine: Affine) -> None:
    norm = make_norm(name, affine, 4)
    x = torch.full((3, 4, 5, 6), 0.25).requires_grad_()
    out = norm(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert out.isfinite().all()
    assert gradient.isfinite().all()


def test_unknown_norm_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RequestError, match="unknown norm layer 'batch-uncentered': did you mean 'batch-uncentred'"):
        make_norm("batch-uncentered", "full", 4)
