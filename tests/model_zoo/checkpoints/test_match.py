"""A checkpoint of a known architecture is recognised by its tensors, whatever the architecture, in seconds."""

import time
from functools import cache

import pytest
import torch
from torch import Tensor

from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, BCOS_PREFIX, build_architecture
from robustbench_bcos.model_zoo.checkpoints.match import matching_architectures, suggest_architecture

CLASSES = 7


@cache
def tensors_of(name: str, **arguments: object) -> dict[str, Tensor]:
    """Names and shapes alone."""
    channels = 6 if name.startswith(BCOS_PREFIX) else 3
    with torch.device("meta"):
        network = build_architecture(name, in_channels=channels, classes=CLASSES, arguments=arguments)
    return dict(network.state_dict())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_recognised(name: str) -> None:
    (fit,) = matching_architectures(tensors_of(name), among=[name])
    assert fit.architecture == name
    assert fit.arguments["classes"] == CLASSES
    assert fit.arguments["in_channels"] == (6 if name.startswith(BCOS_PREFIX) else 3)


FAMILIES = ("bcos_convnext_tiny", "densenet121", "bcos_resnet50", "resnet8", "cifar_resnet50", "vgg11", "bcos_vitc_s")


@pytest.mark.parametrize("name", FAMILIES)
def test_an_architecture_is_taken_for_no_other_and_all_are_asked_in_seconds(name: str) -> None:
    tensors = tensors_of(name)
    start = time.perf_counter()
    assert [fit.architecture for fit in matching_architectures(tensors)] == [name]
    assert time.perf_counter() - start < 10


def test_no_two_architectures_have_the_same_tensors() -> None:
    # So that each is taken for no other, unless another of its arguments were read off wrongly.
    shapes = {name: frozenset((key, value.shape) for key, value in tensors_of(name).items()) for name in ARCHITECTURES}
    assert len(set(shapes.values())) == len(shapes)


@pytest.mark.parametrize(
    ("name", "made", "open_arguments"),
    [
        ("bcos_resnet20", {"norm": "none"}, ()),
        ("bcos_resnet20", {"max_out": 2}, ()),
        ("bcos_resnet20", {"norm": "all-uncentred", "norm_affine": "full"}, ()),
        ("bcos_resnet20", {"norm": "group-uncentred"}, ("norm",)),
        ("resnet20", {"norm": "position"}, ("norm",)),
    ],
)
def test_what_the_tensors_say_is_read_off_and_what_they_leave_open_is_named(
    name: str, made: dict[str, object], open_arguments: tuple[str, ...]
) -> None:
    (fit,) = matching_architectures(tensors_of(name, **made), among=[name])
    assert (fit.architecture, fit.open) == (name, open_arguments)
    for key, value in made.items():
        assert key in fit.open or fit.arguments[key] == value
    assert not set(fit.open) & set(fit.arguments)


def test_a_tensor_more_or_less_or_of_another_shape_fits_nothing() -> None:
    tensors, among = tensors_of("resnet20"), ["resnet8", "resnet20", "bcos_resnet20"]
    assert not matching_architectures({**tensors, "more": torch.ones(1)}, among)
    assert not matching_architectures({name: tensor for name, tensor in tensors.items() if name != "fc.bias"}, among)
    for name in ("fc.bias", "conv1.weight", "fc.weight", "layer1.1.bn2.running_var"):
        assert not matching_architectures({**tensors, name: torch.ones(3, 3, device="meta")}, among)
    assert not matching_architectures({})


def test_a_suggestion_names_what_fits_and_what_has_to_be_stated() -> None:
    assert suggest_architecture(tensors_of("vgg11")) == "use --architecture vgg11, which has exactly these tensors"
    assert "bcos_resnet20 (with --argument norm=...)" in suggest_architecture(
        tensors_of("bcos_resnet20", norm="layer-uncentred")
    )
    assert suggest_architecture(tensors_of("resnet20"), stated="resnet20") == (
        "resnet20 has these tensors with other arguments: leave --argument out"
    )


def test_an_unknown_prefix_is_named_with_the_remedy() -> None:
    tensors = {f"encoder.{name}": tensor for name, tensor in tensors_of("vgg11").items()}
    assert suggest_architecture(tensors) == (
        "all names begin with 'encoder.' and fit --architecture vgg11 without it: "
        "save {name.removeprefix('encoder.'): tensor for name, tensor in state.items()}"
    )
    strange = {"encoder.weight": torch.ones(3), "encoder.bias": torch.ones(2)}
    assert suggest_architecture(strange).startswith("all names begin with 'encoder.': save")


def test_what_nothing_fits_is_told() -> None:
    tensors = {"encoder.weight": torch.ones(3), "decoder.weight": torch.ones(2)}
    assert suggest_architecture(tensors) == f"none of the {len(ARCHITECTURES)} known architectures has these tensors"
