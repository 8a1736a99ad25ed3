"""Maps that sum to the logit and are another map are told from W(x)x, whoever wrote the layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import bcos.models.resnet
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.linear_map import assemble
from robustbench_bcos.explanations.verification import verify_explanation
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import load_model
from tests.model_zoo.bcos.test_folded_architectures import inputs_of, make
from tests.reference import linear_map as reference

PACKAGED = [name for name in Zoo().names() if "bcos" in name and Zoo()[name].card.weights.url is None]
"""Every B-cos network whose weights are here."""

KINDS = ["convnext_atto", "densenet52_12", "resnext29_32x4d", "simple_vit_ti", "vgg11", "vitc_ti"]
"""A network of each further kind whose cards have no weights here, small, with random ones."""

CLASSES = 3


def pictures(count: int = 2, channels: int = 3, pixels: int = 8) -> Tensor:
    return torch.rand((count, channels, pixels, pixels), generator=torch.Generator().manual_seed(5))


class Switched(nn.Module):
    """Somebody's own layer, with the switch of the official package."""

    detach = False

    def set_explanation_mode(self, on: bool = True) -> None:
        self.detach = on

    def constant(self, value: Tensor) -> Tensor:
        return value.detach() if self.detach else value


class OwnBcos(Switched):
    """A B-cos convolution written from the paper. ``forgets`` is the mistake in it."""

    def __init__(self, inputs: int, outputs: int, b: float = 2.0, forgets: str = "") -> None:
        super().__init__()
        filters = torch.randn((outputs, inputs, 3, 3), generator=torch.Generator().manual_seed(inputs + outputs))
        self.weight = nn.Parameter(filters)
        self.b, self.forgets = b, forgets

    def forward(self, features: Tensor) -> Tensor:
        filters = self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None]
        responses = F.conv2d(features, filters, padding=1)
        norms = (F.conv2d(features**2, torch.ones_like(filters[:1]), padding=1) + 1e-6).sqrt()
        if self.forgets != "norm":
            norms = self.constant(norms)
        cosines = responses.abs() / norms if self.forgets == "cosine" else self.constant(responses).abs() / norms
        if self.forgets == "response" and self.detach:
            return cosines ** (self.b - 1) * responses.abs().detach() * responses.sign() + 0 * responses
        return responses * cosines ** (self.b - 1)


class OwnNorm(Switched):
    """A group norm without bias; the deviation is a gate, and the mean is not."""

    def __init__(self, forgets: str = "") -> None:
        super().__init__()
        self.forgets = forgets

    def forward(self, features: Tensor) -> Tensor:
        variance, mean = torch.var_mean(features, dim=(1, 2, 3), correction=0, keepdim=True)
        deviation = (variance + 1e-5).sqrt()
        if self.forgets != "deviation":
            deviation = self.constant(deviation)
        return (features - (self.constant(mean) if self.forgets == "mean" else mean)) / deviation


class Pooling(Switched):
    """Largest of four; with the mistake, explained as their mean."""

    def __init__(self, forgets: str = "") -> None:
        super().__init__()
        self.forgets = forgets

    def forward(self, features: Tensor) -> Tensor:
        largest = F.max_pool2d(features, 2)
        if self.forgets == "argmax" and self.detach:
            mean = F.avg_pool2d(features, 2)
            return mean + (largest - mean).detach()
        return largest


class Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        encoded = torch.cat([images, 1 - images], dim=1)
        maps: Tensor = self.layers(encoded)
        return maps.mean(dim=(2, 3))


def make_net(*, b: float = 2.0, forgets: str = "") -> Net:
    at = partial(OwnBcos, b=b)
    return Net(
        at(6, 8), OwnNorm(forgets), Pooling(forgets), at(8, 8, forgets=forgets), OwnNorm(), at(8, CLASSES)
    ).eval()


def own_maps(model: Net, *, outside: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that explains at the encoded images; ``outside``, as in code that makes its logits too early."""

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        encoded = torch.cat([images, 1 - images], dim=1).requires_grad_()
        switched = [layer for layer in model.modules() if isinstance(layer, Switched)]

        def logits() -> Tensor:
            maps: Tensor = model.layers(encoded)
            return maps.mean(dim=(2, 3))

        early = logits()
        for layer in switched:
            layer.set_explanation_mode(True)
        chosen = (early if outside else logits()).gather(1, targets[:, None]).sum()
        (weights,) = torch.autograd.grad(chosen, encoded)
        for layer in switched:
            layer.set_explanation_mode(False)
        contributions: Tensor = (weights * encoded).detach().sum(dim=1)
        return contributions

    return explain


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_bcos_network_is_verified_and_its_full_gradient_refuted(name: str) -> None:
    model = load_model(name)
    images = pictures(pixels=8 if "digits" in name else 16)
    assert verify_explanation(model, images).verdict == "verified"
    if Zoo()[name].card.texts is not None:
        # A cosine does not grow with the image: the full gradient's sum is 0.
        return
    with_graph_outside = verify_explanation(model, images, partial(full_gradient, model))
    assert with_graph_outside.verdict == "refuted"
    assert "nothing held constant" in with_graph_outside.reason


def full_gradient(model: Any, images: Tensor, targets: Tensor) -> Tensor:
    encoded = model.encoding(images).requires_grad_()
    logits = model.network(encoded).gather(1, targets[:, None])
    maps: Tensor = (torch.autograd.grad(logits.sum(), encoded)[0] * encoded).sum(dim=1)
    # The trap: they sum to the logit, which has a bias of -ln 9.
    torch.testing.assert_close(maps.sum(dim=(1, 2)), logits[:, 0] + np.log(9.0), rtol=1e-3, atol=1e-3)
    return maps.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind_are_verified(kind: str) -> None:
    name = f"bcos_{kind}"
    verification = verify_explanation(
        make(name), inputs_of(name, count=1, pixels=32 if kind.startswith("convnext") else 16)
    )
    assert verification.verdict == "verified", verification


def test_the_official_network_is_verified() -> None:
    peer = bcos.models.resnet.cifar10_resnet20(num_classes=CLASSES).eval()
    images = torch.cat([pictures(1), 1 - pictures(1)], dim=1)
    assert verify_explanation(peer, images).verdict == "verified"


def as_reference(net: Net) -> list[reference.Layer]:
    layers: list[reference.Layer] = []
    for layer in net.layers:
        if isinstance(layer, OwnBcos):
            layers.append(("bcos", {"weight": layer.weight.detach().numpy(), "b": layer.b}))
        else:
            layers.append(("norm" if isinstance(layer, OwnNorm) else "pool", {}))
    return layers


@pytest.mark.parametrize("b", [1.0, 1.25, 2.0, 2.5])
def test_the_linear_map_is_the_one_that_numpy_assembles_by_columns(b: float) -> None:
    net, image = make_net(b=b).double(), pictures(1).double()
    encoded = torch.cat([image, 1 - image], dim=1)
    rows = reference.rows(as_reference(net), encoded[0].numpy())
    for target in range(CLASSES):
        assembled = assemble(net, image).contributions(torch.tensor([target]))
        (at_encoding,) = [contributions for contributions in assembled if contributions.shape[1] == 6]
        torch.testing.assert_close(at_encoding[0], torch.tensor(rows[target]) * encoded[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("b", [1.25, 2.0, 2.5])
def test_own_layers_without_a_mistake_are_verified(b: float) -> None:
    net = make_net(b=b)
    assert verify_explanation(net, pictures()).verdict == "verified"
    assert verify_explanation(net, pictures(), own_maps(net)).verdict == "verified"


@pytest.mark.parametrize("b", [1.25, 2.0])
@pytest.mark.parametrize(
    ("forgets", "layer"),
    [
        ("norm", "layers.3"),
        ("cosine", "layers.3"),
        ("response", "layers.3"),
        ("deviation", "layers.1"),
        ("mean", "layers.1"),
        ("argmax", "layers.2"),
    ],
)
def test_each_mistake_is_refuted_and_its_layer_named(forgets: str, layer: str, b: float) -> None:
    net = make_net(b=b, forgets=forgets)
    verification = verify_explanation(net, pictures())
    assert verification.verdict == "refuted"
    assert verification.layers == (f"model.{layer}",)
    assert verify_explanation(net, pictures(), own_maps(net)).verdict == "refuted"


def test_logits_made_outside_explanation_mode_are_refuted_though_the_maps_sum_to_them() -> None:
    net = Net(OwnBcos(6, 8), Pooling(), OwnBcos(8, CLASSES))
    maps = own_maps(net, outside=True)(pictures(), targets := torch.tensor([0, 2]))
    logits = net(pictures()).detach().gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), logits, rtol=1e-3, atol=1e-4)
    verification = verify_explanation(net, pictures(), maps, targets=targets)
    assert verification.verdict == "refuted"
    assert "inside explanation mode" in verification.reason
    assert verification.correlations is not None
    assert bool((verification.correlations < 0.9).all())


def scaled(maps: Tensor) -> Tensor:
    return maps / maps.abs().max()


@pytest.mark.parametrize(
    "change",
    [scaled, torch.abs, torch.relu, lambda maps: maps.mT, lambda maps: maps.roll(1, dims=0)],
    ids=["scaled", "magnitudes", "positive part", "transposed", "another image's"],
)
def test_what_was_done_to_maps_afterwards_is_refuted(change: Callable[[Tensor], Tensor]) -> None:
    net = make_net()
    maps = own_maps(net)(pictures(), torch.tensor([0, 2]))
    assert verify_explanation(net, pictures(), change(maps), targets=torch.tensor([0, 2])).verdict == "refuted"


def test_scaled_maps_are_said_to_be_scaled() -> None:
    net = make_net()
    maps = 0.25 * own_maps(net)(pictures(), torch.tensor([0, 2]))
    assert "W(x)x times 0.25" in verify_explanation(net, pictures(), maps, targets=torch.tensor([0, 2])).reason


def test_maps_of_another_class_are_refuted() -> None:
    net = make_net()
    maps = own_maps(net)(pictures(), torch.tensor([0, 2]))
    assert verify_explanation(net, pictures(), maps, targets=[0, 1]).verdict == "refuted"


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.ReLU6(), nn.Mish()])
def test_layers_with_activations_have_a_map_that_sums_to_the_logit(activation: nn.Module) -> None:
    net = Net(OwnBcos(6, 8), activation, OwnBcos(8, CLASSES)).double()
    linear = assemble(net, pictures().double())
    (contributions,) = [each for each in linear.contributions(torch.tensor([1, 2])) if each.shape[1] == 6]
    logits = net(pictures().double())[[0, 1], [1, 2]]
    torch.testing.assert_close(contributions.sum(dim=(1, 2, 3)), logits)


@pytest.mark.parametrize(
    "made",
    [
        lambda like: like.new_full((), 0.5),
        lambda like: torch.full_like(like, 0.5),
        lambda like: torch.ones_like(like) / 2,
        lambda like: like.new_zeros(like.shape) + 0.5,
    ],
)
def test_what_has_the_form_of_features_alone_is_a_constant(made: Callable[[Tensor], Tensor]) -> None:
    class Scaled(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features * made(features)

    net = Net(OwnBcos(6, 8), Scaled(), OwnBcos(8, CLASSES))
    assert verify_explanation(net, pictures(), own_maps(net)).verdict == "verified"


class OfTheOlderForm(torch.autograd.Function):
    """A gate whose backward pass holds it, or forgets to."""

    held = True

    @staticmethod
    def forward(ctx: Any, responses: Tensor, norms: Tensor) -> Tensor:
        ctx.save_for_backward(responses.abs() / norms)
        return responses * responses.abs() / norms

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradients * scale * (1 if OfTheOlderForm.held else 2), None


class OwnFunction(OwnBcos):
    def forward(self, features: Tensor) -> Tensor:
        responses = F.conv2d(features, self.weight, padding=1)
        norms = (F.conv2d(features**2, torch.ones_like(self.weight[:1]), padding=1) + 1e-6).sqrt()
        return OfTheOlderForm.apply(responses, norms)  # type: ignore[no-any-return]


@pytest.mark.parametrize("held", [True, False])
def test_gradients_that_somebody_wrote_are_verified_as_well(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OfTheOlderForm, "held", held)
    net = Net(OwnFunction(6, 8), OwnFunction(8, CLASSES))
    assert verify_explanation(net, pictures()).verdict == ("verified" if held else "refuted")


class Softmax(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)).softmax(dim=1)


class Bilinear(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images * images.flip(1)).mean(dim=(2, 3))


class Additive(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images + images.square()).mean(dim=(2, 3))


class Random(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) + torch.rand(3)


class OutsideTorch(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor(images.detach().numpy().mean(axis=(2, 3)))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Softmax(), "_softmax"),
        (Bilinear(), "mul"),
        (Additive(), "add"),
        (Random(), "differ"),
        (OutsideTorch(), "cannot be assembled"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_told_is_undecided_with_the_reason(model: nn.Module, reason: str) -> None:
    verification = verify_explanation(model, pictures(), torch.zeros(2, 8, 8))
    assert verification.verdict == "undecided"
    assert reason in verification.reason


def test_maps_that_are_not_finite_are_undecided() -> None:
    maps = torch.full((2, 8, 8), torch.nan)
    assert "finite" in str(verify_explanation(make_net(), pictures(), maps))


@pytest.mark.parametrize(
    ("maps", "named"), [(torch.zeros(2, 4, 4), r"\(2, 4, 4\)"), (torch.zeros(2, 5, 8, 8), "5 channels"), ("a", "str")]
)
def test_maps_of_another_form_are_refused(maps: Any, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        verify_explanation(make_net(), pictures(), maps)


def test_nothing_is_left_changed() -> None:
    net, images = make_net().train(), pictures()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    verify_explanation(net, images)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(images, pictures())
    assert not any(layer.detach for layer in net.modules() if isinstance(layer, Switched))
