"""Files of the published B-cosified networks, rebuilt from torchvision's networks as their authors convert them."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.checkpoints.load import load_checkpoint
from robustbench_bcos.model_zoo.checkpoints.match import matching_architectures
from robustbench_bcos.model_zoo.encodings import NormalizeAddInverse
from robustbench_bcos.model_zoo.models import load_model

CLASSES = 4
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
PLACES = {name: str(n) for n, name in enumerate(["conv0", "norm0", "relu0", "pool0", "denseblock1", "transition1"])}
PLACES |= {"denseblock2": "6", "transition2": "7", "denseblock3": "8", "transition3": "9", "denseblock4": "10"}
PLACES |= {"norm5": "11"}


def source(name: str) -> nn.Module:
    """Norms without biases, with means that B-cos networks do not use and these files have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, num_classes=CLASSES).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network


def published(name: str) -> dict[str, Tensor]:
    """As B-cosification saves what it makes of torchvision's tensors."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in source(name).state_dict().items():
        if key.endswith("bias"):
            continue
        parts = key.split(".")
        if name == "densenet121" and parts[0] == "features":
            inner = (
                [{"norm": "0", "conv": "2"}.get(part, part) for part in parts[2:]] if "transition" in key else parts[2:]
            )
            parts = ["features", PLACES[parts[1]], *inner]
        if tensor.dim() in (2, 4):
            parts.insert(-1, "linear")
            tensor = tensor.view(*tensor.shape, *[1] * (4 - tensor.dim()))
        if tensor.dim() == 4 and tensor.shape[1] == 3:
            tensor = torch.cat([tensor, -tensor], dim=1) / 2
        if key.endswith("running_mean"):
            tensor = torch.ones_like(tensor)
        tensors[".".join(parts)] = tensor
    return tensors


def transformer(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_architecture(name, in_channels=3, classes=CLASSES, arguments={}).eval()


def published_transformer(name: str) -> dict[str, Tensor]:
    """As B-cosification saves it: no biases, projections to queries, keys and values as they are."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in transformer(name).state_dict().items():
        if key.endswith("bias"):
            continue
        parts = key.split(".")
        if tensor.dim() > 1 and "to_qkv" not in key:
            parts.insert(-1, "linear")
        if key == "to_patch_embedding.linear.weight" and "vitc" not in name:
            # Of each pixel, its colours and then their negatives.
            colours = tensor.unflatten(1, (-1, 3))
            tensor = torch.cat([colours / 2, -colours / 2], dim=2).flatten(1)
        if tensor.dim() == 4 and tensor.shape[1] == 3:
            tensor = torch.cat([tensor, -tensor], dim=1) / 2
        tensors[".".join(parts)] = tensor
    return tensors


@pytest.mark.parametrize(("name", "entries"), [("simple_vit_ti", 75), ("vitc_ti", 77)])
def test_transformers_load_with_the_last_layer_on_each_token(name: str, entries: int, tmp_path: Path) -> None:
    tensors = published_transformer(name)
    assert len(tensors) == entries
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"model.model.{key}": tensor for key, tensor in tensors.items()}}, file)
    made = load_model(file, architecture=f"bcosified_{name}", b=1.0, logit_bias=0.0)
    network = transformer(name)
    for module in network.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, grid = network.to_patch_embedding((images - MEAN) / STD)
        tokens = network.transformer(network.positional_embedding(tokens, grid))
        expected, found = network.linear_head(tokens).mean(dim=1), made(images)
    assert expected.std(dim=0).min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    surplus = {f"model.model.{key}": tensor for key, tensor in tensors.items()} | {"model.model.x": torch.ones(1)}
    torch.save({"state_dict": surplus}, file)
    with pytest.raises(RequestError, match="surplus"):
        load_model(file, architecture=f"bcosified_{name}")


def saved(name: str, folder: Path, **more: Tensor) -> Path:
    file = folder / "last.ckpt"
    state = {f"model.model.{key}": tensor for key, tensor in {**published(name), **more}.items()}
    torch.save({"state_dict": state, "epoch": 89, "pytorch-lightning_version": "1.9.5"}, file)
    return file


@pytest.mark.parametrize(("name", "entries"), [("resnet18", 101), ("densenet121", 605)])
def test_with_b_1_it_is_the_network_that_was_converted(name: str, entries: int, tmp_path: Path) -> None:
    assert len(published(name)) == entries
    made = load_model(saved(name, tmp_path), architecture=f"bcosified_{name}", b=1.0, logit_bias=0.0)
    assert isinstance(made.encoding, NormalizeAddInverse)
    network = source(name)
    for parent in network.modules():
        for key, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, key, nn.AvgPool2d(3, 2, 1))
    last = network.fc if name == "resnet18" else network.classifier
    nn.init.zeros_(last.bias)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = network((images - MEAN) / STD), made(images)
    assert expected.std(dim=0).min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_the_file_leaves_open_is_the_published_setting(tmp_path: Path) -> None:
    loaded = load_checkpoint(saved("resnet18", tmp_path), "bcosified_resnet18", encoding=None, arguments={}, ema=False)
    assert loaded.assumed["b"] == "2"
    assert loaded.classes == CLASSES
    assert loaded.encoding.kind == "normalize_add_inverse"
    assert loaded.classifier.network.logit_layer.bias == pytest.approx(-1.0986, abs=1e-4)


def test_means_that_are_not_zero_tell_raw_filters_from_normalised_ones() -> None:
    tensors, among = published("resnet18"), ("bcos_resnet18", "bcosified_resnet18", "resnet18")
    assert [match.architecture for match in matching_architectures(tensors, among)] == ["bcosified_resnet18"]
    zero = {key: torch.zeros_like(t) if key.endswith("running_mean") else t for key, t in tensors.items()}
    assert [match.architecture for match in matching_architectures(zero, among)] == ["bcos_resnet18"]


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    file = saved("resnet18", tmp_path, **{"layer1.0.conv3.linear.weight": torch.ones(2, 2, 1, 1)})
    with pytest.raises(RequestError, match=r"surplus .*layer1.0.conv3"):
        load_model(file, architecture="bcosified_resnet18")
