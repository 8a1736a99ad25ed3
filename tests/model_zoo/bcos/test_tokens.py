"""Layers of vision transformers against NumPy, the official layers, and plain matrix products."""

import bcos.models.vit as official
import numpy as np
import pytest
import torch
from bcos.modules import norms as official_norms
from torch import Tensor, nn

from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.layers import BcosLinear
from robustbench_bcos.model_zoo.bcos.norms import Affine
from robustbench_bcos.model_zoo.bcos.tokens import Attention, PositionCode, TokenNorm, position_code
from tests.model_zoo.peers import normal
from tests.reference import attention, bcos_transform

FEATURES, HEADS, TOKENS = 8, 2, 5
# float64 sums of a few products; the norm's epsilon of 1e-5 is visible at this tolerance.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
GRIDS = [(2, 3), (14, 14), (1, 7), (3, 1)]


def tokens(seed: int = 3) -> Tensor:
    return normal(2, TOKENS, FEATURES, seed=seed) * 2 + 0.7


def randomised(layer: nn.Module) -> nn.Module:
    layer.double()
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed) / FEATURES**0.5
    return layer


def make_attention(*, bcos: bool = True) -> nn.Module:
    norm = TokenNorm(FEATURES, affine="no-bias" if bcos else "full")
    out = BcosLinear(FEATURES, FEATURES) if bcos else nn.Linear(FEATURES, FEATURES, bias=False)
    return randomised(Attention(norm, out, features=FEATURES, heads=HEADS))


def outcome(layer: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    leaf = inputs.clone().requires_grad_()
    out = layer(leaf)
    names = ["input", *dict(layer.named_parameters())]
    weighted = (out * normal(*out.shape, seed=9)).sum()
    gradients = torch.autograd.grad(weighted, [leaf, *layer.parameters()])
    return {"out": out.detach()} | dict(zip(names, gradients, strict=True))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("features", [8, 192])
def test_position_code_is_that_of_its_definition(grid: tuple[int, int], features: int) -> None:
    code = position_code(*grid, features)
    # float32, in which the published networks have it: angles of up to 13 are rounded to half a millionth.
    np.testing.assert_allclose(code.numpy(), attention.position_code(*grid, features), rtol=0, atol=2e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_position_code_is_the_official_one_bit_by_bit(grid: tuple[int, int], dtype: torch.dtype) -> None:
    patches = torch.zeros(2, *grid, 16, dtype=dtype)
    expected = official.PosEmbSinCos2d()(patches)
    coded = PositionCode()(patches.flatten(1, 2), grid)
    assert torch.equal(coded, expected.expand(2, -1, -1))
    assert coded.dtype == dtype


def test_position_code_is_added_and_depends_on_no_token() -> None:
    code = PositionCode()
    nothing = code(torch.zeros(2, 6, FEATURES, dtype=torch.float64), (2, 3))
    leaf = normal(2, 6, FEATURES).requires_grad_()
    coded = code(leaf, (2, 3))
    torch.testing.assert_close(coded, leaf + nothing, **CLOSE)
    coded.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf))
    assert not list(code.state_dict())


@pytest.mark.parametrize("explaining", [False, True])
@pytest.mark.parametrize("affine", ["full", "no-bias", "none"])
def test_token_norm_equals_the_official_one(affine: Affine, explaining: bool) -> None:
    wrappers = {"full": lambda make: make, "no-bias": official_norms.NoBias, "none": official_norms.Unaffine}
    peer = wrappers[affine](official_norms.DetachableLayerNorm)(FEATURES).double()
    norm = randomised(TokenNorm(FEATURES, affine=affine))
    peer.load_state_dict(norm.state_dict())
    norm.load_state_dict(peer.state_dict())
    peer.set_explanation_mode(explaining)
    expected = outcome(peer, tokens())
    with explanation_mode(norm if explaining else nn.Identity()):
        torch.testing.assert_close(outcome(norm, tokens()), expected, **CLOSE)


def test_token_norm_is_that_of_its_definition() -> None:
    norm = randomised(TokenNorm(FEATURES, affine="full"))
    weight, bias = (norm.get_parameter(name).detach().numpy() for name in ("weight", "bias"))
    expected = [[attention.layer_norm(token, weight, bias) for token in image] for image in tokens().numpy()]
    torch.testing.assert_close(norm(tokens()), torch.tensor(np.array(expected)), **CLOSE)


def test_attention_is_that_of_its_definition() -> None:
    layer = make_attention()
    weight, qkv, out = (
        layer.get_parameter(f"{name}weight").detach().numpy() for name in ("norm.", "to_qkv.", "to_out.linear.")
    )
    for image, found in zip(tokens().numpy(), layer(tokens()).detach(), strict=True):
        normed = np.array([attention.layer_norm(token, weight) for token in image])
        received, _ = attention.attended(normed, qkv, HEADS)
        expected = bcos_transform.bcos_linear(received, out, b=2)
        torch.testing.assert_close(found, torch.tensor(expected), **CLOSE)


def test_explained_attention_is_a_constant_mixing_of_values() -> None:
    layer, inputs = make_attention(), tokens()[:1]
    weight, qkv, out = (
        layer.get_parameter(f"{name}weight").detach().numpy() for name in ("norm.", "to_qkv.", "to_out.linear.")
    )
    image = inputs[0].numpy()
    normed = np.array([attention.layer_norm(token, weight) for token in image])
    received, shares = attention.attended(normed, qkv, HEADS)
    units = np.array([next(bcos_transform.unit_filters(out, row, 1)) for row in range(FEATURES)])
    cosines = np.abs(received @ units.T) / np.linalg.norm(received, axis=1, keepdims=True)
    deviations = np.sqrt(image.var(axis=1) + 1e-5)
    values, size = qkv[2 * FEATURES :], FEATURES // HEADS
    centring = np.eye(FEATURES) - 1 / FEATURES
    # (receiver, output, giver, feature): every factor but the input is a constant.
    expected = np.zeros((TOKENS, FEATURES, TOKENS, FEATURES))
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        through = units[:, own] @ values[own] @ np.diag(weight) @ centring
        for receiver, giver in np.ndindex(TOKENS, TOKENS):
            share = shares[head, receiver, giver] / deviations[giver]
            expected[receiver, :, giver] += cosines[receiver][:, None] * share * through
    with explanation_mode(layer):
        found = torch.autograd.functional.jacobian(layer, inputs)[0, :, :, 0]
    torch.testing.assert_close(found, torch.tensor(expected), **CLOSE)
    mixed = np.einsum("rogf,gf->ro", expected, image)
    torch.testing.assert_close(layer(inputs)[0].detach(), torch.tensor(mixed), **CLOSE)


class PlainAttention(nn.Module):
    """The definition as matrix products, on the layers of ours."""

    def __init__(self, layer: nn.Module, *, explaining: bool) -> None:
        super().__init__()
        self.norm, self.to_qkv, self.to_out = layer.norm, layer.to_qkv, layer.to_out
        self.explaining = explaining

    def forward(self, inputs: Tensor) -> Tensor:
        split = [
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.to_qkv(self.norm(inputs)).chunk(3, dim=-1)
        ]
        queries, keys = (part.detach() for part in split[:2]) if self.explaining else split[:2]
        shares = (queries @ keys.transpose(-1, -2) / (FEATURES / HEADS) ** 0.5).softmax(dim=-1)
        return self.to_out((shares @ split[2]).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("explaining", [False, True])
@pytest.mark.parametrize("bcos", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_fused_attention_equals_matrix_products_in_value_and_in_every_gradient(
    dtype: torch.dtype, tolerance: float, bcos: bool, explaining: bool
) -> None:
    layer = make_attention(bcos=bcos).to(dtype)
    plain = PlainAttention(layer, explaining=explaining)
    with explanation_mode(layer if explaining else nn.Identity()):
        found, expected = outcome(layer, tokens().to(dtype)), outcome(plain, tokens().to(dtype))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * float(value.abs().max()), msg=name)


def test_cutting_queries_and_keys_changes_the_gradient_and_not_the_output() -> None:
    layer = make_attention()
    plain = outcome(layer, tokens())
    with explanation_mode(layer):
        explained = outcome(layer, tokens())
    torch.testing.assert_close(explained["out"], plain["out"], **CLOSE)
    assert not torch.allclose(explained["input"], plain["input"])
    queries_and_keys = explained["to_qkv.weight"][: 2 * FEATURES]
    assert not queries_and_keys.any()
    assert plain["to_qkv.weight"][: 2 * FEATURES].any()
