"""Converted networks: what they give before B is changed, what their contributions add up to, what is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.layers import b_of, is_bcos
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from robustbench_bcos.model_zoo.bcosify.bcosify import bcosify
from robustbench_bcos.model_zoo.bcosify.network import DynamicFunctions
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encodings import AddInverse, NoEncoding, parse_encoding
from tests.model_zoo.bcosify.networks import CLASSES, ENCODING, KINDS, Kind, images_of, make


def encoding_of(kind: Kind) -> str:
    return ENCODING if kind.channels == 3 else "none"


def memory_of(network: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}


@pytest.mark.parametrize("name", KINDS)
def test_nothing_changes_before_b_does(name: str) -> None:
    kind, images = KINDS[name], images_of(KINDS[name])
    source = make(kind).train()
    state = copy.deepcopy(source.state_dict())
    made = bcosify(source, images=images, encoding=encoding_of(kind), b=1.0, biases=True)
    assert source.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in source.state_dict().items())
    assert not memory_of(source) & memory_of(made)
    # The source in double precision is nothing that the conversion made.
    exact = ImageClassifier(parse_encoding(encoding_of(kind)), source.eval()).double()
    with torch.no_grad():
        expected, found = exact(images.double()), made.double()(images.double())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.std(dim=0).min() > 1e-3 * expected.abs().max()
    assert made.conversion.proof.images == 3
    assert made.conversion.proof.difference <= 1e-6
    assert 0 < made.conversion.proof.rounding <= 1e-4
    assert not any(layer.dropped for layer in made.conversion.layers)


@pytest.mark.parametrize("name", KINDS)
def test_contributions_and_named_constants_are_the_logit(name: str) -> None:
    kind, images = KINDS[name], images_of(KINDS[name])
    made = bcosify(make(kind), images=images, encoding=encoding_of(kind), logit_bias=0.0)
    assert is_bcos(made)
    assert b_of(made) == 2
    residuals = {layer.path: layer.residual for layer in made.conversion.layers if layer.residual}
    assert set(residuals) == set(kind.constants)
    # Once more, by hand and in double precision: gradients in explanation mode times the encoded image.
    encoded = AddInverse()(images.double()).requires_grad_()
    network = made.network.double()
    with explanation_mode(network):
        logits = network(encoded)
    largest = logits.max(dim=1).values
    (weights,) = torch.autograd.grad(largest.sum(), encoded)
    contributions = (weights * encoded).sum(dim=(1, 2, 3))
    torch.testing.assert_close(logits, network(encoded.detach()), rtol=1e-9, atol=1e-12)
    if not kind.constants:
        torch.testing.assert_close(contributions, largest, rtol=1e-9, atol=1e-12)
    share = ((largest - contributions) / largest)[:2].mean()
    assert sum(residuals.values()) == pytest.approx(float(share.detach()), rel=1e-6, abs=1e-9)


def test_explanations_of_a_converted_network_are_its_dynamic_weights() -> None:
    images = images_of(KINDS["resnet"])
    made = bcosify(make(KINDS["resnet"]), images=images, encoding=ENCODING)
    explained = explain(made, images)
    sums = explained.contributions.sum(dim=(-2, -1))
    expected = explained.logits.max(dim=1).values - made.network.logit_layer.bias
    torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "absorbed"), [("zoo-resnet", 9), ("resnet", 12), ("zoo-densenet", 24), ("vit", 0)])
def test_a_folded_copy_gives_the_same_logits_and_gradients(name: str, absorbed: int) -> None:
    kind, images = KINDS[name], images_of(KINDS[name])
    network = bcosify(make(kind), images=images, encoding=ENCODING, logit_bias=0.0).network.double()
    folded = fold(network)
    before, after = (sum(isinstance(m, BatchNormUncentred2d) for m in net.modules()) for net in (network, folded))
    assert before - after == absorbed
    results = []
    for one in (network, folded):
        encoded = AddInverse()(images.double()).requires_grad_()
        logits = one(encoded)
        (gradient,) = torch.autograd.grad((logits * torch.arange(1.0, 1 + CLASSES)).sum(), encoded)
        with explanation_mode(one):
            (weights,) = torch.autograd.grad(one(encoded).max(dim=1).values.sum(), encoded)
        results.append((logits.detach(), gradient, weights))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))


def test_what_changes_is_told_layer_by_layer() -> None:
    made = bcosify(make(KINDS["zoo-resnet"]), images=images_of(KINDS["zoo-resnet"]), encoding="none")
    layers = {layer.path: layer for layer in made.conversion.layers}
    assert (layers["conv1"].source, layers["conv1"].became) == ("Conv2d", "RawBcosConv2d")
    assert layers["bn1"].dropped == ("bias", "running_mean")
    assert layers["act"].became == ""
    assert made.conversion.spec.image_layers == ("conv1",)
    assert made.network.layers.conv1.linear.weight.shape[1] == 6


def test_logits_that_single_precision_does_not_hold_are_told() -> None:
    """The logit bias does not hide them, nor what contributions leave of them."""
    network = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), *[nn.Linear(4, 4, bias=False) for _ in range(8)])
    for layer in network[2:]:
        nn.init.constant_(layer.weight, 0.01)
    told = [bcosify(network, images=torch.rand(1, 3, 8, 8), encoding="none", b=b).conversion for b in (1.0, 2.0)]
    assert [conversion.vanishes for conversion in told] == [False, True]
    assert 0 < told[1].faintest < 1e-38
    assert all(conversion.remainder < 1e-12 for conversion in told)


def test_lengths_that_are_kept_from_zero_stay_so_in_explanation_mode() -> None:
    lengths = torch.tensor([0.0, 2.0], requires_grad=True)
    with DynamicFunctions():
        assert lengths.clamp(min=1e-3).tolist() == pytest.approx([1e-3, 2.0])


def test_the_image_and_its_complement_give_what_the_normalised_image_gave() -> None:
    source = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 25, CLASSES))
    made = bcosify(source, images=torch.rand(2, 3, 5, 5), encoding=ENCODING, b=1.0)
    weight = source[0].weight
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)))
    expected = torch.cat([weight * (1 - mean) / std, -weight * mean / std], dim=1)
    torch.testing.assert_close(made.network.layers[0].linear.weight, expected)


def test_shared_modules_and_weights_stay_shared() -> None:
    made = bcosify(make(KINDS["shared"]), images=images_of(KINDS["shared"]), encoding=ENCODING).network.layers
    assert made.again is made.alias
    assert made.tied.linear.weight is made.again.linear.weight


@pytest.mark.parametrize(
    "function",
    [
        F.gelu,
        F.silu,
        F.hardswish,
        F.mish,
        F.elu,
        F.relu6,
        torch.tanh,
        lambda x: F.silu(x, inplace=False),
        lambda x: x.clamp(-1, 2),
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: F.normalize(x, dim=1),
        lambda x: x / (1 + x.abs().exp()),
        lambda x: F.layer_norm(x, (4,)),
        lambda x: F.group_norm(x, 2),
        lambda x: F.instance_norm(x[..., None]).squeeze(-1),
        lambda x: F.silu(x[:, :2]) * x[:, 2:],
        lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x,
    ],
)
def test_functions_are_linear_maps_in_explanation_mode(function: Callable[[Tensor], Tensor]) -> None:
    from robustbench_bcos.model_zoo.bcosify.network import DynamicFunctions

    features = 3 * torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features[0, 0, 0] = 0
    expected = function(features.clone())
    features.requires_grad_()
    with DynamicFunctions():
        found = function(features)
    torch.testing.assert_close(found, expected)
    # A random row of the map, times the input.
    row = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((row * found).sum(), features)
    assert gradient.isfinite().all()
    torch.testing.assert_close((gradient * features).sum(), (row * expected).sum())


class Wrong(nn.Module):
    """One convolution, and something around it."""

    def __init__(
        self, after: Callable[[Tensor], Any] = lambda x: x, before: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CLASSES, 3)
        self.after, self.before = after, before

    def forward(self, images: Tensor) -> Any:
        return self.after(self.conv(self.before(images)).mean(dim=(2, 3)))


class OwnWeights(Wrong):
    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(CLASSES, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) @ self.mixing


class BoundHook(Wrong):
    def __init__(self) -> None:
        super().__init__()
        self.conv.register_forward_hook(lambda *_: None)


class Constant(Wrong):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.conv.weight)


def _followed_by(layer: nn.Module, channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3), layer, nn.Flatten(), nn.LazyLinear(CLASSES))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no module": (lambda: lambda images: images, "must be a torch.nn.Module"),
    "features": (lambda: nn.Conv2d(3, 5, 3), "one logit per image"),
    "several outputs": (lambda: Wrong(after=lambda x: (x, x)), "gives tuple"),
    "one logit": (lambda: Wrong(after=lambda x: x[:, :1]), "at least two classes"),
    "dropout in training mode": (lambda: Wrong(after=F.dropout), "training=self.training"),
    "no weights": (Constant, "load its weights"),
    "infinite": (lambda: Wrong(after=lambda x: x / 0), "NaN or infinite"),
    "normalised inside": (lambda: Wrong(before=lambda x: (x - 0.5) / 0.2), "state it as the encoding"),
    "scripted": (lambda: torch.jit.trace(Wrong(), torch.rand(1, 3, 8, 8)), "give the module it was made from"),
    "compiled": (lambda: torch.compile(Wrong()), "model._orig_mod"),
    "parallel": (lambda: nn.DataParallel(Wrong()), "model.module"),
    "fused": (
        lambda: _followed_by(torch.ao.nn.intrinsic.ConvReLU2d(nn.Conv2d(3, 4, 3), nn.ReLU())),
        "1 (ConvReLU2d) is quantised or fused",
    ),
    "weight norm": (
        lambda: _followed_by(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
        "remove_parametrizations",
    ),
    "weight norm of old": (
        lambda: _followed_by(nn.utils.weight_norm(nn.Conv2d(3, 4, 3))),
        "1 (Conv2d) has a weight that is made before each pass: remove_weight_norm",
    ),
    "probabilities": (lambda: Wrong(after=lambda x: x.softmax(dim=1)), "without its softmax"),
    "log-probabilities": (lambda: Wrong(after=lambda x: x.log_softmax(dim=1)), "without its softmax"),
    "hooks": (BoundHook, "conv (Conv2d) has hooks"),
    "lazy": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(CLASSES)), "run the network once"),
    "transposed": (lambda: _followed_by(nn.ConvTranspose2d(3, 4, 3)), "1 (ConvTranspose2d) cannot be converted"),
    "batch statistics": (lambda: _followed_by(nn.BatchNorm2d(3, track_running_stats=False)), "track_running_stats"),
    "weights of its own": (OwnWeights, "the network multiplies by weights of its own"),
    "unknown function": (lambda: Wrong(after=torch.sin), "neither linear nor a gate"),
    "B-cos": (
        lambda: build_architecture("bcos_resnet8", in_channels=6, classes=5, arguments={}),
        "B-cos layers already",
    ),
    "groups": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.LazyLinear(CLASSES)),
        "in 3 groups",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_with_its_path_and_the_remedy(name: str) -> None:
    build, message = REFUSED[name]
    network = build()
    if isinstance(network, nn.Module) and name not in ("lazy", "B-cos", "scripted", "compiled", "parallel"):
        network.eval()(torch.rand(2, 3, 8, 8))
    with pytest.raises(RequestError) as error:
        bcosify(network, images=torch.rand(3, 3, 8, 8), encoding="none")
    assert message in str(error.value)


def test_of_a_single_image_a_constant_network_is_refused_too() -> None:
    with pytest.raises(RequestError, match="answers every image alike"):
        bcosify(Constant(), images=torch.rand(1, 3, 8, 8), encoding="none")


def test_networks_are_asked_once_in_either_precision_and_for_the_account() -> None:
    """And only as far as the layers that take the image to find these."""
    asked: list[torch.dtype] = []

    def noted(logits: Tensor) -> Tensor:
        asked.append(logits.dtype)
        return logits

    bcosify(Wrong(after=noted), images=torch.rand(1, 3, 8, 8), encoding="none")
    assert asked == [torch.float32, torch.float64] * 2 + [torch.float64]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoding": None}, "encoding is needed"),
        ({"b": 0.5}, "b must be at least 1"),
        ({"b": float("nan")}, "b must be at least 1"),
        ({"images": torch.rand(2, 3, 8)}, "images must be of shape"),
        ({"images": torch.rand(0, 3, 8, 8)}, "images must be of shape"),
        ({"images": 255 * torch.rand(2, 3, 8, 8)}, "in [0, 1]"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "in [0, 1]"),
        ({"images": torch.rand(2, 1, 8, 8)}, "give images that fit it"),
    ],
)
def test_bad_arguments_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as error:
        bcosify(Wrong(), **{"images": torch.rand(2, 3, 8, 8), "encoding": "none"} | settings)
    assert message in str(error.value)


def test_a_classifier_has_its_encoding() -> None:
    classifier = ImageClassifier(NoEncoding(), Wrong())
    images = torch.rand(2, 3, 8, 8)
    made = bcosify(classifier, images=images, b=1.0, biases=True)
    torch.testing.assert_close(made(images), classifier(images))
    with pytest.raises(RequestError, match="leave it out"):
        bcosify(classifier, images=images, encoding="none")


def test_pools_of_maxima_become_means_where_asked() -> None:
    images = images_of(KINDS["resnet"])
    kept, averaged = (
        bcosify(make(KINDS["resnet"]), images=images, encoding=ENCODING, max_pools=pools).network.layers.maxpool
        for pools in ("kept", "averaged")
    )
    assert isinstance(kept, nn.MaxPool2d)
    assert (averaged.kernel_size, averaged.stride, averaged.padding) == (3, 2, 1)
    assert isinstance(averaged, nn.AvgPool2d)
