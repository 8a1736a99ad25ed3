"""Texts as classes: logits are cosines, and in explanation mode contributions sum to them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos import load_model
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.bcos.layers import LogitLayer
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AddInverse
from robustbench_bcos.model_zoo.prompts import ONE, Prompts, read_templates
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork, prototypes_of

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
        ((), ONE, "0 texts were given"),
        (("dog",), ONE, "1 texts were given"),
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
