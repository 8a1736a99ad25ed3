"""Encodings, and the classifier that puts one before its network."""

from typing import Any

import pytest
import torch
from bcos.data.transforms import AddInverse as OfficialAddInverse
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.cards import EncodingSpec, ModelSpec
from robustbench_bcos.model_zoo.classifier import ImageClassifier, build_classifier, freeze
from robustbench_bcos.model_zoo.encoding_spec import CONSTANTS
from robustbench_bcos.model_zoo.encodings import (
    ENCODINGS,
    AbstractEncoding,
    AddInverse,
    NoEncoding,
    Normalize,
    parse_encoding,
)

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
ARGUMENTS: dict[str, dict[str, Any]] = {"none": {}, "add_inverse": {}, "normalize": {"mean": MEAN, "std": STD}}
ARGUMENTS["normalize_add_inverse"] = ARGUMENTS["normalize"]


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    """Images that reach both ends of the range."""
    drawn = torch.rand((2, 3, 4, 5), generator=torch.Generator().manual_seed(1), dtype=dtype)
    drawn[0, 0, 0, :2] = torch.tensor([0, 1])
    return drawn


def make(name: str) -> AbstractEncoding:
    return ENCODINGS[name](**ARGUMENTS[name])


def spec(architecture: str, encoding: EncodingSpec, **arguments: Any) -> ModelSpec:
    return ModelSpec(
        name="a-model",
        family="bcos" if architecture.startswith("bcos") else "conventional",
        architecture=architecture,
        arguments=arguments,
        dataset="digits",
        classes=7,
        image_size=(8, 12),
        encoding=encoding,
        loss="bce",
    )


def test_every_encoding_is_under_test() -> None:
    assert set(ENCODINGS) == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_encoding_gives_the_channels_it_states_in_the_precision_of_the_images(name: str) -> None:
    encoding = make(name)
    for dtype in (torch.float32, torch.float64):
        encoded = encoding.to(dtype)(images(dtype))
        assert encoded.shape == (2, encoding.channels, 4, 5)
        assert encoded.dtype == dtype


@pytest.mark.parametrize("name", ARGUMENTS)
def test_encoding_that_states_the_unit_box_stays_in_it_and_no_other_does(name: str) -> None:
    encoding = make(name)
    encoded = encoding(images())
    assert encoding.unit_box == bool(encoded.min() >= 0 and encoded.max() <= 1)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_encoding_adds_no_tensor_to_a_checkpoint_and_leaves_the_images_as_they_were(name: str) -> None:
    encoding, given = make(name), images()
    encoding(given)
    assert not encoding.state_dict()
    assert not list(encoding.parameters())
    assert torch.equal(given, images())


def test_no_encoding_is_the_image() -> None:
    assert torch.equal(NoEncoding()(images()), images())


def test_add_inverse_is_the_image_and_its_complement_as_published() -> None:
    encoded = AddInverse()(images())
    assert torch.equal(encoded[:, :3], images())
    assert torch.equal(encoded[:, 3:], 1 - images())
    assert torch.equal(encoded, OfficialAddInverse()(images()))


def test_gradient_to_the_image_is_that_of_the_channels_less_that_of_their_complements() -> None:
    leaf = images().requires_grad_()
    by_channel = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(AddInverse()(leaf), leaf, by_channel)
    # One subtraction, in whatever order it is rounded.
    torch.testing.assert_close(gradient, by_channel[:, :3] - by_channel[:, 3:], rtol=1e-15, atol=1e-15)


def test_normalize_equals_torchvision() -> None:
    given = images(torch.float32)
    # Two roundings of float32 numbers below 4.
    torch.testing.assert_close(Normalize(MEAN, STD)(given), normalize(given, list(MEAN), list(STD)), rtol=0, atol=1e-6)


def test_gradient_through_normalize_is_divided_by_the_deviation_of_its_channel() -> None:
    leaf = images(torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(Normalize(MEAN, STD)(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, (1 / torch.tensor(STD)).view(3, 1, 1).expand(2, 3, 4, 5))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.5, 0.5), STD),
        (MEAN, (0.25,)),
        ((*MEAN, 0.5), (*STD, 0.25)),
        (MEAN, (0.25, 0.0, 0.25)),
        (MEAN, (0.25, 0.25, -0.25)),
    ],
)
def test_normalize_without_three_means_and_positive_deviations_is_refused(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(RequestError, match="'normalize' needs three means and three positive deviations, got"):
        Normalize(mean, std)


def test_unknown_encoding_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RequestError, match="unknown encoding 'add-inverse': did you mean 'add_inverse'"):
        ENCODINGS["add-inverse"]


@pytest.mark.parametrize("architecture", ["resnet8", "bcos_resnet8"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_classifier_is_the_network_behind_its_encoding_and_its_checkpoint_the_network_alone(
    name: str, architecture: str
) -> None:
    encoding = EncodingSpec.model_validate({"kind": name, **ARGUMENTS[name]})
    classifier = build_classifier(spec(architecture, encoding))
    initialise(classifier.network, torch.Generator().manual_seed(1))
    network = build_architecture(architecture, in_channels=make(name).channels, classes=7, arguments={})
    network.load_state_dict(classifier.network.state_dict())
    freeze(classifier)
    freeze(network)
    given = torch.rand((2, 3, 8, 12), generator=torch.Generator().manual_seed(1))
    assert torch.equal(classifier(given), network(make(name)(given)))


def test_arguments_of_a_card_reach_its_architecture() -> None:
    classifier = build_classifier(
        spec("bcos_resnet8", EncodingSpec(kind="add_inverse"), b=1.25, max_out=2, norm="none", logit_bias=0.0)
    )
    head = classifier.network.get_submodule("fc")
    assert (head.b, head.max_out, head.logit_layer.bias) == (1.25, 2, 0.0)
    assert len(classifier.network.state_dict()) == 10


@pytest.mark.parametrize(
    ("architecture", "arguments", "sentence"),
    [
        ("bcos_resnet9", {}, "unknown architecture 'bcos_resnet9': did you mean"),
        ("bcos_resnet8", {"maxout": 2}, "takes no argument 'maxout': it takes b, learn_b, max_out,"),
        ("bcos_resnet8", {"b": 0.0}, "b must be at least 1, got 0.0: choose"),
    ],
)
def test_card_that_asks_for_what_is_not_there_is_refused(
    architecture: str, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RequestError, match=sentence):
        build_classifier(spec(architecture, EncodingSpec(kind="add_inverse"), **arguments))


def test_frozen_model_has_no_gradients_for_parameters_and_keeps_its_statistics() -> None:
    classifier = ImageClassifier(
        NoEncoding(), build_architecture("resnet8", in_channels=3, classes=7, arguments={"norm": "batch"})
    )
    assert freeze(classifier.train()) is classifier
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    leaf = torch.rand((2, 3, 8, 12), generator=torch.Generator().manual_seed(1)).requires_grad_()
    classifier(leaf).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(classifier.state_dict(), before, rtol=0, atol=0)


def test_frozen_dropout_lets_everything_pass() -> None:
    assert torch.equal(freeze(nn.Dropout(0.5))(images()), images())


# As they are written on the command line


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("none", (0, 0, 0), (1, 1, 1)),
        ("normalize:symmetric", (-1, -1, -1), (1, 1, 1)),
        ("normalize:bytes", (0, 0, 0), (255, 255, 255)),
        ("normalize:0.5/0.25", (-2, -2, -2), (2, 2, 2)),
        ("normalize:0,0.5,1/1,0.5,2", (0, -1, -0.5), (1, 1, 0)),
        ("normalize:imagenet", (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225), (0.515 / 0.229, 0.544 / 0.224, 2.64)),
    ],
)
def test_a_written_encoding_sends_black_and_white_where_it_says(
    text: str, low: tuple[float, ...], high: tuple[float, ...]
) -> None:
    encoding = parse_encoding(text)
    for value, expected in ((0.0, low), (1.0, high)):
        encoded = encoding(torch.full((1, 3, 1, 1), value))
        torch.testing.assert_close(encoded.flatten(), torch.tensor(expected, dtype=torch.float32))


def test_every_encoding_and_every_name_of_constants_can_be_written() -> None:
    without = {type(parse_encoding(name)) for name in ENCODINGS if not name.startswith("normalize")}
    assert without == {NoEncoding, AddInverse}
    for name, (mean, std) in CONSTANTS.items():
        encoding = parse_encoding(f"normalize:{name}")
        assert torch.equal(encoding(images()), Normalize(mean, std)(images()))
        both = parse_encoding(f"normalize_add_inverse:{name}")(images())
        assert torch.equal(both, torch.cat([encoding(images()), -encoding(images())], dim=1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("invert", "^unknown encoding 'invert'"),
        ("", "^unknown encoding ''"),
        ("none:imagenet", "^--encoding none:imagenet: none takes no constants, and normalize does: leave them out"),
        ("normalize", "^--encoding normalize: gives no mean and deviation: write normalize:0.485"),
        ("normalize:imagenets", "^--encoding normalize:imagenets gives no mean and deviation: .*normalize:imagenet"),
        ("normalize:0.5", "^--encoding normalize:0.5 gives no mean and deviation"),
        ("normalize:0.5/", "gives no mean and deviation"),
        ("normalize:0.5,0.5/1", "needs three means and three positive deviations"),
        ("normalize:0.5/0", "needs three means and three positive deviations"),
        ("normalize:0.5/-1", "needs three means and three positive deviations"),
        ("normalize:nan/1", "needs three means and three positive deviations"),
        ("normalize:0/nan", "needs three means and three positive deviations"),
        ("normalize:0/inf", "needs three means and three positive deviations"),
    ],
)
def test_an_encoding_that_is_not_written_well_is_refused(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_encoding(text)


GREY = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))


def test_grey_images_are_encoded_in_a_third_of_the_channels() -> None:
    assert torch.equal(NoEncoding()(GREY), GREY)
    assert torch.equal(AddInverse()(GREY), torch.cat([GREY, 1 - GREY], dim=1))
    torch.testing.assert_close(parse_encoding("normalize:0.1307/0.3081")(GREY), (GREY - 0.1307) / 0.3081)


def test_constants_of_three_channels_do_not_make_three_of_one() -> None:
    with pytest.raises(ValueError, match="constants for three channels, and the images have one"):
        parse_encoding("normalize:imagenet")(GREY)
