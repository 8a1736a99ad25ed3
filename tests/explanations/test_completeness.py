"""Where contributions sum to the logit without its bias, and the names of what keeps them from it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.explanations.completeness import additive_constants
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.bcos import tokens
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.layers import BcosLinear, LogitLayer
from robustbench_bcos.model_zoo.bcos.norms import NORM_LAYERS, Affine, AllNorm2d, BatchNormUncentred2d
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import load_model
from tests.model_zoo import peers

CLASSES = 7
AFFINES: list[Affine] = ["full", "no-bias", "none"]
DIGITS = [entry.card for entry in Zoo().entries.values() if entry.card.dataset == "digits"]
BCOS_MODELS = sorted(card.name for card in DIGITS if card.family == "bcos")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_network(architecture: str = "bcos_resnet8", channels: int = 6, **arguments: Any) -> nn.Module:
    """A frozen network whose norms are all away from their defaults."""
    network = build_architecture(architecture, in_channels=channels, classes=CLASSES, arguments=arguments).double()
    for seed, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            values = normal(*tensor.shape, seed=seed)
            tensor.copy_(values.abs() + 0.1 if name.endswith("running_var") else values)
    return network.eval().requires_grad_(False)


def missing(network: nn.Module, logit_bias: float) -> Tensor:
    """What the contributions leave of each image's logit without its bias, relative to the largest logit."""
    images = torch.rand((3, 3, 8, 12), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    explained = explain(network, torch.cat([images, 1 - images], dim=1), torch.tensor([4, 1, 6]))
    logits = explained.logits.gather(1, explained.targets[:, None])[:, 0]
    gap: Tensor = logits - logit_bias - explained.contributions.sum(dim=(1, 2))
    return gap.abs() / explained.logits.abs().max()


def test_there_are_bcos_models() -> None:
    assert BCOS_MODELS


@pytest.mark.parametrize("name", BCOS_MODELS)
def test_contributions_of_a_packaged_model_sum_to_the_logit_without_its_bias(name: str) -> None:
    model = load_model(name)
    assert additive_constants(model) == []
    [layer] = [module for module in model.modules() if isinstance(module, LogitLayer)]
    images = EvalSubset.of(open_dataset("digits", "test")).batch(0, 20).images
    explained = explain(model, images, torch.arange(10).repeat(20, 1))
    sums = explained.contributions.sum(dim=(2, 3)) + layer.bias
    # float32, 384 products that partly cancel.
    torch.testing.assert_close(sums, explained.logits, rtol=0, atol=1e-5 * explained.logits.abs().max().item())


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("norm", NORM_LAYERS)
def test_contributions_sum_to_the_logit_exactly_where_no_constant_is_named(norm: str, affine: Affine) -> None:
    network = make_network(norm=norm, norm_affine=affine, logit_bias=-1.5)
    gap = missing(network, -1.5)
    # float64 through eight layers.
    assert (gap > 1e-3).all() if additive_constants(network) else (gap < 1e-9).all()


@pytest.mark.parametrize("norm", ["batch", "all"])
def test_running_means_are_named_layer_by_layer(norm: str) -> None:
    network = make_network(norm=norm, norm_affine="no-bias")
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d | AllNorm2d)]
    assert additive_constants(network) == norms
    assert len(norms) == 9  # two in each block, the stem's, two on shortcuts
    dict(network.named_buffers())["layer2.0.bn1.running_mean"].zero_()
    assert additive_constants(network) == [name for name in norms if name != "layer2.0.bn1"]


@pytest.mark.parametrize("norm", ["batch-uncentred", "all-uncentred"])
def test_running_mean_that_is_never_used_is_not_named(norm: str) -> None:
    network = make_network(norm=norm, norm_affine="no-bias")
    assert any(module.running_mean.any() for module in network.modules() if isinstance(module, BatchNormUncentred2d))
    assert additive_constants(network) == []


@pytest.mark.parametrize("norm", sorted(name for name in NORM_LAYERS if name != "none"))
def test_bias_of_every_norm_is_named(norm: str) -> None:
    network = make_network(norm=norm, norm_affine="full")
    owners = [name.removesuffix(".bias") for name, _ in network.named_parameters() if name.endswith(".bias")]
    assert len(owners) == 9
    assert additive_constants(network) == owners


VITS = ["bcos_simple_vit_ti", "bcos_vitc_ti"]


def make_large(architecture: str, **arguments: Any) -> nn.Module:
    """A frozen network of many layers, whose signals do not die on their way."""
    network = build_architecture(architecture, in_channels=6, classes=CLASSES, arguments=arguments).double()
    peers.randomise(network, peers.encoded(2, 3, 32, 48))
    return network.requires_grad_(False)


def shares(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits of two images without their bias of -1.5, and what their contributions sum to."""
    explained = explain(network, peers.encoded(2, 3, 32, 48), torch.tensor([4, 1]))
    return explained.logits[[0, 1], [4, 1]] + 1.5, explained.contributions.sum(dim=(1, 2))


@pytest.mark.parametrize("norm", ["position", "batch-uncentred"])
def test_contributions_of_a_convnext_sum_to_the_logit(norm: str) -> None:
    network = make_large("bcos_convnext_atto", norm=norm, logit_bias=-1.5)
    assert additive_constants(network) == []
    torch.testing.assert_close(*shares(network), rtol=1e-9, atol=0)


@pytest.mark.parametrize("architecture", VITS)
def test_position_code_is_named_and_its_share_is_what_contributions_leave(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_large(architecture, logit_bias=-1.5)
    assert additive_constants(network) == ["0.positional_embedding"]
    logits, sums = shares(network)
    assert ((logits - sums).abs() > 1e-3 * logits.abs()).all()

    code = tokens.position_code(2, 3, 192).double().requires_grad_()
    monkeypatch.setattr(tokens, "position_code", lambda *_: code)
    for image, target, logit, total in zip(peers.encoded(2, 3, 32, 48).split(1), (4, 1), logits, sums, strict=True):
        with explanation_mode(network):
            (weights,) = torch.autograd.grad(network(image)[0, target], code)
        torch.testing.assert_close(total + (code * weights).sum(), logit, rtol=1e-9, atol=0)


@pytest.mark.parametrize("architecture", VITS)
def test_contributions_of_a_transformer_without_position_code_sum_to_the_logit(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "position_code", lambda *_: torch.zeros(6, 192))
    torch.testing.assert_close(*shares(make_large(architecture, logit_bias=-1.5)), rtol=1e-9, atol=0)


def test_biases_of_a_conventional_network_are_named() -> None:
    assert additive_constants(make_network("resnet8", channels=3, norm="none")) == ["fc"]
    assert {"bn1", "fc"} < set(additive_constants(make_network("resnet8", channels=3)))


@pytest.mark.parametrize("bias", [None, 0.0, -2.0])
def test_logit_bias_is_not_named(bias: float | None) -> None:
    assert additive_constants(nn.Sequential(nn.Flatten(), BcosLinear(6, 5), LogitLayer(bias=bias))) == []


def test_bias_of_ones_own_layer_is_named() -> None:
    class Similarity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(4))

        def forward(self, features: Tensor) -> Tensor:
            return features + self.bias

    assert additive_constants(nn.Sequential(BcosLinear(6, 4), Similarity(), BcosLinear(4, 5))) == ["1"]


@pytest.mark.parametrize("name", ["cls_token", "class_embedding", "pos_embed", "positional_embedding"])
def test_tokens_and_codes_of_a_transformer_are_named_and_its_factors_are_not(name: str) -> None:
    tower = nn.Sequential(nn.Linear(4, 4, bias=False))
    tower.register_parameter(name, nn.Parameter(torch.ones(4)))
    tower.register_parameter("gamma", nn.Parameter(torch.ones(4)))
    assert additive_constants(nn.Sequential(tower, nn.Embedding(3, 4))) == [f"0.{name}"]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_running_mean_of_every_batch_norm_is_named(norm: type[nn.modules.batchnorm._BatchNorm]) -> None:
    layer = norm(4, affine=False)
    network = nn.Sequential(BcosLinear(6, 4), layer)
    assert additive_constants(network) == []
    assert layer.running_mean is not None
    layer.running_mean += 0.5
    assert additive_constants(network) == ["1"]
