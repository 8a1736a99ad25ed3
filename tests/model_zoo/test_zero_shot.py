"""Texts as classes: logits are cosines, and in explanation mode contributions sum to them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robustbench_bcos import load_model
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import parse_table
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import initialise
from robustbench_bcos.model_zoo.bcos.layers import BcosConv2d, LogitLayer
from robustbench_bcos.model_zoo.cards import Card, ModelSpec, Zoo
from robustbench_bcos.model_zoo.checkpoints.write import round_filters, write_weights
from robustbench_bcos.model_zoo.classifier import ImageClassifier, build_classifier, freeze
from robustbench_bcos.model_zoo.encodings import AddInverse
from robustbench_bcos.model_zoo.models import find_models
from robustbench_bcos.model_zoo.prompts import ONE, Prompts, read_templates
from robustbench_bcos.model_zoo.texts import TEXT_ENCODERS
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork, prototypes_for, prototypes_of
from tests.drafts import TOWER

TEXTS, WIDTH = 4, 10


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tower() -> nn.Module:
    """A B-cos network whose ten logits are taken for a feature."""
    network = load_model("digits-bcos-b2").network
    assert isinstance(network, nn.Module)
    for module in network.modules():
        if isinstance(module, LogitLayer):
            module.bias = None  # Otherwise a constant of each feature.
    return network


def make(tower: nn.Module, **settings: float) -> ImageClassifier:
    return freeze(ImageClassifier(AddInverse(), ZeroShotNetwork(tower, drawn(TEXTS, WIDTH, seed=1), **settings)))


def test_prototypes_are_normalised_averaged_and_normalised_again() -> None:
    features = drawn(3, 5, 7).double().numpy()
    lengths = np.sqrt((features**2).sum(axis=2, keepdims=True))
    mean = (features / lengths).sum(axis=1) / 5
    expected = mean / np.sqrt((mean**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(prototypes_of(torch.from_numpy(features)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_logits_are_cosines_to_a_power_that_keeps_their_sign(tower: nn.Module, power: float) -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    found = make(tower, scale=7.0, power=power, bias=-0.5)(images).double().numpy()
    features, texts = tower(AddInverse()(images)).double().numpy(), drawn(TEXTS, WIDTH, seed=1).double().numpy()
    for i, j in np.ndindex(3, TEXTS):
        cosine = features[i] @ texts[j] / np.sqrt((features[i] ** 2).sum() * (texts[j] ** 2).sum())
        assert found[i, j] == pytest.approx(7 * np.sign(cosine) * abs(cosine) ** power - 0.5, rel=1e-4, abs=1e-5)
    assert (found < -0.5).any()


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_contributions_sum_to_the_cosine_they_explain(tower: nn.Module, power: float) -> None:
    model, images = make(tower, power=power), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    found = explain(model, images, [list(range(TEXTS))] * 3)
    torch.testing.assert_close(found.contributions.sum(dim=(2, 3)), found.logits, rtol=0, atol=1e-6)
    assert found.logits.abs().max() > 0.1
    # Of the function itself they would sum to nothing, because a cosine does not change with the feature's length.
    leaf = AddInverse()(images).requires_grad_()
    (gradient,) = torch.autograd.grad(model.network(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close((gradient * leaf).sum(dim=(1, 2, 3)), torch.zeros(3), rtol=0, atol=1e-6)


def test_a_feature_whose_squares_underflow_has_its_cosines() -> None:
    feature = torch.tensor([[3e-30, 4e-30]])
    network = ZeroShotNetwork(nn.Identity(), torch.eye(2))
    torch.testing.assert_close(network(feature), torch.tensor([[0.6, 0.8]]))
    assert torch.equal(network(torch.zeros(1, 2)), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("prototypes", "settings", "message"),
    [
        (torch.zeros(2, 3), {}, "finite and not 0, got shape (2, 3): give"),
        (torch.ones(3), {}, "one feature a text"),
        (torch.full((2, 3), torch.nan), {}, "finite and not 0"),
        (torch.ones(2, 3), {"scale": 0.0}, "scale 0.0 must be positive"),
        (torch.ones(2, 3), {"power": 0.5}, "power 0.5 at least 1"),
    ],
)
def test_what_is_no_prototype_is_refused(prototypes: Tensor, settings: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        ZeroShotNetwork(nn.Identity(), prototypes, **settings)


def test_prototypes_of_another_width_are_refused_when_an_image_is_seen() -> None:
    with pytest.raises(RequestError, match=r"features of shape \(5,\), and prototypes have 3 numbers: take both"):
        ZeroShotNetwork(nn.Identity(), torch.eye(3))(torch.ones(1, 5))


def test_prompts_are_names_in_templates_and_their_digest_is_of_all() -> None:
    prompts = Prompts(("dog", "cat"), ("a {}.", "no {}"))
    assert prompts.of_classes == [["a dog.", "no dog"], ["a cat.", "no cat"]]
    others = {str(Prompts(names, prompts.templates)) for names in (("dog", "cat"), ("cat", "dog"), ("dog", "cow"))}
    assert len({*others, str(Prompts(("dog", "cat"), ONE))}) == 4
    assert str(prompts).startswith("2 classes in 2 templates, ")


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ((), ONE, "too few texts, 0"),
        (("dog",), ONE, "too few texts, 1"),
        (("dog", " "), ONE, "text 1 is empty"),
        (("dog", "cat"), (), "there is no template"),
        (("dog", "cat"), ("a photo",), "template 'a photo' must have one place"),
        (("dog", "cat"), ("{} and {}",), "must have one place"),
    ],
)
def test_texts_that_cannot_be_compared_are_refused(
    classes: tuple[str, ...], templates: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        Prompts(classes, templates)


def test_templates_come_from_a_file_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a {}.\n\n  the {}  \n", encoding="utf-8")
    assert read_templates(str(tmp_path / "mine.txt")) == ("a {}.", "the {}")
    assert read_templates("plain") == ONE
    assert read_templates(["{}"]) == ("{}",)
    with pytest.raises(RequestError, match=r"templates 'missing\.txt' cannot be read"):
        read_templates("missing.txt")


# Models whose card has texts

CARD = TOWER | {"licence": "CC0-1.0"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of random weights, whose filters are kept in float8."""
    folder = tmp_path_factory.mktemp("texts")
    classifier = freeze(build_classifier(ModelSpec.model_validate(TOWER)))
    initialise(classifier.network, torch.Generator().manual_seed(0))
    network = classifier.network
    assert isinstance(network, ZeroShotNetwork)
    network.compare_with(
        prototypes_for(Prompts(("dog", "cat", "ship"), ONE), TEXT_ENCODERS["all_minilm_l6_v2"].features)
    )
    round_filters(network)
    digest = write_weights(network, folder / "tower.safetensors", float8_filters=True)
    weights = {"file": "tower.safetensors", "sha256": digest}
    (folder / "tower.toml").write_text(tomli_w.dumps(CARD | {"weights": weights}), encoding="utf-8")
    torch.save(network.state_dict(), folder / "whole.pt")
    return folder


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))


def test_filters_in_float8_are_those_that_were_rounded(zoo: Path) -> None:
    whole, model = torch.load(zoo / "whole.pt", weights_only=True), load_model("tower", zoo=zoo)
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, whole[name]), name
    kept = load_file(zoo / "tower.safetensors")
    filters = [tensor for name, tensor in kept.items() if name.endswith("linear.weight")]
    assert {tensor.dtype for tensor in filters} == {torch.float8_e4m3fn}
    assert kept["prototypes"].dtype == torch.float32
    assert (zoo / "tower.safetensors").stat().st_size < 0.5 * (zoo / "whole.pt").stat().st_size


def test_rounding_to_float8_changes_directions_by_little_and_lengths_do_not_matter() -> None:
    layer = BcosConv2d(4, 5, 3, b=2.0)
    sizes = torch.tensor([1e-6, 1e-3, 1.0, 1e3, 0.0])
    before = drawn(*layer.linear.weight.shape, seed=6) * sizes.view(5, 1, 1, 1)
    layer.linear.weight.data.copy_(before)
    round_filters(layer)
    cosines = nn.functional.cosine_similarity(layer.linear.weight.detach().flatten(1), before.flatten(1))
    assert (cosines[:4] > 0.999).all()
    assert not layer.linear.weight[4].any()


def test_a_card_with_texts_is_a_classifier_of_them_or_of_others(zoo: Path, images: Tensor) -> None:
    [source] = find_models("tower", Zoo([zoo]))
    assert (source.texts, source.class_names) == (("dog", "cat", "ship"), None)
    own = source.load()
    assert own.weights_sha256 == Zoo([zoo])["tower"].card.weights.sha256
    assert own.texts == str(Prompts(("dog", "cat", "ship"), ONE))
    # Of the dataset whose classes have these names they are the weights as they are; texts in their place are others.
    assert source.for_classes(("dog", "cat", "ship")).load().weights_sha256 == own.weights_sha256
    others = source.for_texts(("a photo of a cat.", "a photo of a horse.")).load()
    assert (others.classes, others.texts[:9]) == (2, "2 classes")
    assert others.weights_sha256 != own.weights_sha256
    torch.testing.assert_close(others.classifier(images)[:, 0], own.classifier(images)[:, 1], rtol=1e-4, atol=1e-4)
    framed = load_model("tower", zoo=zoo, classes=("cat", "horse"), templates=("a photo of a {}.",))
    torch.testing.assert_close(framed(images), others.classifier(images))


def test_contributions_of_a_card_with_texts_sum_to_its_cosines(zoo: Path, images: Tensor) -> None:
    found = explain(load_model("tower", zoo=zoo), images, [[0, 1, 2]] * 2)
    torch.testing.assert_close(found.contributions.sum(dim=(2, 3)), found.logits, rtol=0, atol=1e-5)
    assert found.logits.abs().max() > 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["dog", "cat"]}, "texts names 2 classes, and there are 3"),
        ({"held_out": ["fish"]}, "held_out names 'fish', which is none of the classes"),
        ({"held_out": ["dog", "cat"]}, "held_out must leave at least two classes"),
    ],
)
def test_texts_that_do_not_fit_a_card_are_refused(changes: dict[str, Any], said: str) -> None:
    weights = {"file": "a", "sha256": "0" * 64}
    with pytest.raises(RequestError, match=re.escape(said)):
        parse_table(Card, CARD | {"weights": weights, "texts": CARD["texts"] | changes}, "a card")


def test_a_feature_has_no_bias() -> None:
    weights = {"file": "a", "sha256": "0" * 64}
    with pytest.raises(RequestError, match=r"texts needs logit_bias = 0\.0 among the arguments"):
        parse_table(Card, CARD | {"weights": weights, "arguments": {}}, "a card")


def test_the_packaged_tower_is_of_its_texts_and_its_maps_add_up() -> None:
    card, model = Zoo()["texts-bcos-resnet20"].card, load_model("texts-bcos-resnet20")
    assert card.texts is not None
    assert card.texts.held_out == ("cat", "truck")
    network = model.network
    assert isinstance(network, ZeroShotNetwork)
    texts = prototypes_for(
        Prompts(card.texts.classes, card.texts.templates), TEXT_ENCODERS[card.texts.encoder].features
    )
    torch.testing.assert_close(network.prototypes, texts, rtol=0, atol=1e-3)
    torch.testing.assert_close(network.prototypes.norm(dim=1), torch.ones(10))
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    found = explain(model, images, [[0, 3, 5, 9]])
    torch.testing.assert_close(found.contributions.sum(dim=(2, 3)), found.logits[:, [0, 3, 5, 9]], rtol=0, atol=1e-5)
