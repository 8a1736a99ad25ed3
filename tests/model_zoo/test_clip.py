"""Models of open_clip, on small towers: the same logits, fixed texts, and explanations after B-cosification."""

import re
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_bcos import bcosify, load_model
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import find_models
from robustbench_bcos.model_zoo.sources import clip as source

VISION: dict[str, dict[str, Any]] = {
    "RN50": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "ViT-B-32": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
}
CLASSES = ("dog", "cat", "flower")


@pytest.fixture(scope="module")
def library() -> ModuleType:
    found: ModuleType = pytest.importorskip("open_clip")
    return found


@pytest.fixture(autouse=True)
def small_towers(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, pretrained: str | None = None) -> nn.Module:
        text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
        both: nn.Module = library.CLIP(embed_dim=16, vision_cfg=VISION[name], text_cfg=text)
        for parameter, values in both.named_parameters():
            # Zeros at first, with which a residual network answers every image alike.
            if parameter.endswith("bn3.weight"):
                nn.init.ones_(values)
        return both

    monkeypatch.setattr(library, "create_model", create)


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("templates", ["plain", "openai"])
def test_logits_are_those_of_open_clip(library: ModuleType, name: str, templates: str) -> None:
    model = load_model(f"clip:{name}@none", classes=CLASSES, templates=templates)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        both: Any = library.create_model(name).eval()
    published = library.OPENAI_IMAGENET_TEMPLATES if templates == "openai" else [lambda name: f"a photo of a {name}."]
    assert len(published) == (80 if templates == "openai" else 1)
    size = VISION[name]["image_size"]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (library.OPENAI_DATASET_MEAN, library.OPENAI_DATASET_STD))
    tokenizer = library.get_tokenizer(name)
    with torch.no_grad():
        texts = []
        for one in CLASSES:
            features = both.encode_text(tokenizer([template(one) for template in published]))
            average = (features / features.norm(dim=1, keepdim=True)).mean(dim=0)
            texts.append(average / average.norm())
        seen = both.encode_image((images - mean) / std)
        expected = both.logit_scale.exp() * (seen / seen.norm(dim=1, keepdim=True)) @ torch.stack(texts).T
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("b", [1.0, 2.0])
def test_a_b_cosified_tower_has_maps_that_add_up_or_names_what_is_left(name: str, b: float) -> None:
    size = VISION[name]["image_size"]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    model = bcosify(load_model(f"clip:{name}@none", classes=CLASSES), images=images, b=b, logit_bias=0.0)
    assert model.conversion.proof.difference < 1e-5
    found = explain(model, images, [[0, 1, 2]] * 2)
    left = (found.contributions.sum(dim=(2, 3)) - found.logits).abs().max() / found.logits.abs().max()
    named = {layer.path for layer in model.conversion.layers if abs(layer.residual) > 1e-6}
    if name == "RN50":
        assert left < 1e-5
        assert named == set()
    else:
        assert left > 1e-3
        assert named == {"tower.0.class_embedding", "tower.0.positional_embedding"}


def test_texts_are_those_of_the_dataset_unless_they_were_stated() -> None:
    [found] = find_models("clip:RN50@none", Zoo())
    assert found.texts is None
    stated = found.for_classes(CLASSES)
    assert stated.texts == CLASSES == stated.for_classes(("one", "two")).texts
    assert stated.for_texts(("a red car", "rain")).texts == ("a red car", "rain")
    model = found.for_classes(CLASSES).load()
    assert (model.classes, model.texts[:26]) == (3, "3 classes in 1 templates, ")
    assert model.weights_sha256 != found.for_classes(CLASSES[::-1]).load().weights_sha256
    with pytest.raises(RequestError, match="'digits-natural' knows no texts"):
        find_models("digits-natural", Zoo())[0].for_texts(CLASSES)


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("RN50@none", (), "compares images with texts, and there are none: give names of classes"),
        ("RN51", CLASSES, "open_clip has no classifier 'RN51': did you mean"),
        ("RN50@laion", CLASSES, "open_clip's RN50 has no classifier 'laion'"),
        ("RN50@none", ("dog " * 90, "cat"), "has 95 tokens and the text tower takes 75: it would be cut after"),
    ],
)
def test_what_cannot_be_compared_is_refused(name: str, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        load_model(f"clip:{name}", classes=classes)


def test_weights_that_cannot_be_had_are_told_with_the_remedy(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(library, "create_model", offline)
    with pytest.raises(
        RequestError, match=r"weights openai of clip:RN50 cannot be had \(no connection\): .*clip:RN50@none"
    ):
        load_model("clip:RN50", classes=CLASSES)


def test_open_clip_is_asked_for_by_the_name_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(RequestError, match="is not installed: pip install open_clip_torch"):
        source.open_clip()
