"""Simple ViTs and ViT-Cs, conventional and B-cos, against the published configurations."""

import copy
import warnings
from typing import Any

import pytest
import torch
from bcos.experiments.ImageNet.vit_final.experiment_parameters import CONFIGS
from bcos.experiments.ImageNet.vit_final.model import get_model
from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import initialise
from robustbench_bcos.model_zoo.architectures.vit import SIZES
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.layers import AbstractBcosLayer
from tests.model_zoo.peers import (
    CLASSES,
    assert_arguments_are_read_off,
    assert_folds,
    assert_proportionally_close,
    assert_same_network,
    encoded,
    ours,
    outcomes,
    parameters,
    randomise,
    shapes,
)

SMALL = ["simple_vit_ti", "vitc_ti"]
PREFIXES = ["", "bcos_"]


def official(name: str, *, classes: int = CLASSES, b: float = 2.0, max_out: int = 1) -> Any:
    """Built as the published network of that name, without a logit bias."""
    suffix = "patch16_224" if "simple" in name else "patch1_14"
    config = copy.deepcopy(CONFIGS[f"{name}_{suffix}"]["model"])
    config["args"]["num_classes"] = classes
    if config["is_bcos"]:
        config["bcos_args"] = {"b": b, "max_out": max_out}
        config["logit_bias"] = None
    with warnings.catch_warnings():
        # They are warned of being built without the logit layer that get_model appends.
        warnings.simplefilter("ignore")
        return get_model(config)


@pytest.mark.parametrize(("b", "max_out"), [(2.0, 1), (2.0, 2), (1.5, 1), (1.0, 2)])
@pytest.mark.parametrize("name", SMALL)
def test_bcos_network_equals_the_published_one(name: str, b: float, max_out: int) -> None:
    network = ours(f"bcos_{name}", b=b, max_out=max_out, logit_bias=0.0)
    assert_same_network(network, official(f"bcos_{name}", b=b, max_out=max_out), encoded(2, 3, 48, 32))


@pytest.mark.parametrize("name", SMALL)
def test_conventional_network_equals_the_published_one(name: str) -> None:
    assert_same_network(ours(name), official(name), encoded(2, 3, 48, 32)[:, :3])


def test_stem_with_convolutions_that_keep_the_size_equals_the_published_one() -> None:
    with torch.device("meta"):
        networks = ours("bcos_vitc_b"), official("bcos_vitc_b")
    stems = [network[0].to_patch_embedding.conv_stem.to_empty(device="cpu").double() for network in networks]
    randomise(stems[0], encoded(2, 3, 40, 33))
    stems[1].load_state_dict(stems[0].state_dict())
    for actual, expected in zip(*(stem_outcomes(stem) for stem in stems), strict=True):
        assert_proportionally_close(actual, expected)


def stem_outcomes(stem: nn.Module) -> list[torch.Tensor]:
    return list(outcomes(stem, encoded(2, 3, 40, 33)))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("index", [None, 3])
def test_explanations_are_the_official_ones(name: str, index: int | None) -> None:
    network, peer = ours(f"bcos_{name}", logit_bias=0.0).double(), official(f"bcos_{name}").double().eval()
    inputs = encoded(2, 3, 32, 48)
    randomise(network, inputs)
    peer.load_state_dict(network.state_dict())
    explained = explain(network, inputs, None if index is None else torch.full((2,), index))
    for position, image in enumerate(inputs.split(1)):
        expected = peer.explain(image.clone().requires_grad_(), idx=index)
        assert explained.targets[position] == expected["explained_class_idx"]
        assert_proportionally_close(explained.contributions[position], expected["contribution_map"][0].detach())


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", SIZES)
def test_tensors_of_every_size_are_the_official_ones(name: str, prefix: str) -> None:
    with torch.device("meta"):
        assert shapes(ours(prefix + name)) == shapes(official(prefix + name))


# Böhle et al. (2024) and their code give these numbers, of conventional networks in millions.
@pytest.mark.parametrize(
    ("name", "count", "entries", "millions", "conventional_entries"),
    [
        ("simple_vit_ti", 5_800_128, 75, 5.67, 126),
        ("simple_vit_s", 22_217_088, 75, 21.96, 126),
        ("simple_vit_b", 86_901_504, 75, 86.38, 126),
        ("simple_vit_l", 178_787_328, 87, 178.10, 146),
        ("vitc_ti", 5_318_712, 77, 5.33, 132),
        ("vitc_s", 20_878_704, 77, 20.91, 132),
        ("vitc_b", 81_326_016, 81, 81.39, 140),
        ("vitc_l", 167_444_160, 93, 167.54, 160),
    ],
)
def test_published_numbers_of_parameters_and_tensors(
    name: str, count: int, entries: int, millions: float, conventional_entries: int
) -> None:
    with torch.device("meta"):
        bcos, conventional = ours(f"bcos_{name}", classes=1000), ours(name, classes=1000)
    assert (parameters(bcos), len(bcos.state_dict())) == (count, entries)
    assert round(parameters(conventional) / 1e6, 2) == millions
    assert len(conventional.state_dict()) == conventional_entries


def test_tensors_of_the_tiny_vit_are_those_of_its_checkpoint() -> None:
    expected = {
        "0.to_patch_embedding.linear.linear.weight": (192, 1536),
        "0.linear_head.norm.weight": (192,),
        "0.linear_head.linear.linear.weight": (1000, 192),
    }
    for index in range(12):
        encoder = f"0.transformer.encoder_{index}"
        expected |= {
            f"{encoder}.attn.norm.weight": (192,),
            f"{encoder}.attn.to_qkv.weight": (576, 192),
            f"{encoder}.attn.to_out.linear.weight": (192, 192),
            f"{encoder}.ff.net.norm.weight": (192,),
            f"{encoder}.ff.net.linear1.linear.weight": (768, 192),
            f"{encoder}.ff.net.linear2.linear.weight": (192, 768),
        }
    assert shapes(ours("bcos_simple_vit_ti", classes=1000)) == expected


@pytest.mark.parametrize("arguments", [{}, {"b": 1.5, "max_out": 2}], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_folded_network_gives_the_same(name: str, arguments: dict[str, Any]) -> None:
    assert_folds(ours(f"bcos_{name}", **arguments), encoded(2, 3, 32, 48), norms_left=0)


def test_rows_of_a_folded_network_are_normalised_for_good_and_queries_are_left_alone() -> None:
    network = ours("bcos_simple_vit_ti")
    folded = fold(network)
    layers = [module for module in folded.modules() if isinstance(module, AbstractBcosLayer)]
    assert len(layers) == 2 + 3 * 12
    for layer in layers:
        norms = layer.linear.weight.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        assert layer.linear.normalised
    key = "0.transformer.encoder_3.attn.to_qkv.weight"
    assert torch.equal(folded.get_parameter(key), network.get_parameter(key))


@pytest.mark.parametrize("name", SMALL)
def test_gradient_of_a_linearised_network_is_its_dynamic_weights(name: str) -> None:
    network, inputs = ours(f"bcos_{name}").double(), encoded(2, 3, 32, 32)
    randomise(network, inputs)
    expected = explain(network, inputs, torch.tensor([2, 4]))
    found = explain(fold(network, linear=True), inputs, torch.tensor([2, 4]), method="input_x_gradient")
    assert_proportionally_close(found.weights, expected.weights)
    plain = explain(network, inputs, torch.tensor([2, 4]), method="input_x_gradient")
    assert not torch.allclose(plain.weights, expected.weights)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("bcos_simple_vit_ti", {"max_out": 1}),
        ("bcos_simple_vit_b", {"max_out": 2}),
        ("bcos_vitc_ti", {"max_out": 3}),
        ("bcos_vitc_l", {"max_out": 1}),
        ("simple_vit_l", {}),
        ("vitc_s", {}),
    ],
)
def test_arguments_are_read_from_the_tensors(name: str, arguments: dict[str, Any]) -> None:
    assert_arguments_are_read_off(name, arguments)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", SMALL)
def test_initial_weights_leave_nothing_undefined_and_keep_what_norms_begin_with(name: str, prefix: str) -> None:
    network = ours(prefix + name)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                nn.init.constant_(parameter, float("nan"))
    initialise(network, torch.Generator().manual_seed(1))
    for key, tensor in network.state_dict().items():
        assert tensor.isfinite().all(), key
        if tensor.dim() == 1:
            assert torch.equal(tensor, torch.full_like(tensor, float(key.endswith("weight")))), key


@pytest.mark.parametrize(("height", "width", "wrong"), [(40, 32, 40), (32, 8, 8)])
def test_image_that_cannot_be_cut_into_patches_is_refused(height: int, width: int, wrong: int) -> None:
    expected = f"^an image has {wrong} pixels in height or width, expected a multiple of 16: crop or resize it"
    with pytest.raises(RequestError, match=expected):
        ours("simple_vit_ti")(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize(
    ("name", "argument", "taken"),
    [
        ("simple_vit_ti", "norm", "none"),
        ("bcos_vitc_ti", "norm_affine", "b, learn_b, max_out, logit_bias, temperature"),
    ],
)
def test_norms_are_not_open(name: str, argument: str, taken: str) -> None:
    with pytest.raises(RequestError, match=f"takes no argument '{argument}': it takes {taken}$"):
        ours(name, **{argument: "none"})


def test_feature_maps_for_gradcam_are_those_of_the_stem() -> None:
    inputs = encoded(1, 3, 32, 32)[:, :3]
    with pytest.raises(RequestError, match="gradcam needs feature maps and this network has none"):
        explain(ours("simple_vit_ti").double().eval(), inputs, method="gradcam")
    contributions = explain(ours("vitc_ti").double().eval(), inputs, method="gradcam").contributions
    assert contributions.shape == (1, 32, 32)
    assert contributions.isfinite().all()


def test_temperature_and_bias_of_the_logits_can_be_set() -> None:
    inputs = encoded(1, 3, 32, 32)
    plain, set_ = ours("bcos_vitc_ti", logit_bias=0.0), ours("bcos_vitc_ti", temperature=0.5, logit_bias=-1.5)
    randomise(plain.double(), inputs)
    set_.double().eval().load_state_dict(plain.state_dict())
    torch.testing.assert_close(set_(inputs), plain(inputs) / 0.5 - 1.5)


def test_twins_have_matrices_of_the_same_shape_in_the_same_order() -> None:
    for name in SMALL:
        conventional, bcos = matrices(name), matrices(f"bcos_{name}")
        assert bcos.pop(0)[1] == 2 * conventional.pop(0)[1]
        assert conventional == bcos


def matrices(name: str) -> list[tuple[int, ...]]:
    return [shape for shape in shapes(ours(name)).values() if len(shape) > 1]
