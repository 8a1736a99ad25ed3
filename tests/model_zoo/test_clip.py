"""Models of open_clip, on small towers: the same logits, fixed texts, and explanations after B-cosification."""

import logging
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos import bcosify, load_model
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures.bcosified import placed
from robustbench_bcos.model_zoo.bcosify.build import converted
from robustbench_bcos.model_zoo.bcosify.card import CardFacts, write_bcosified
from robustbench_bcos.model_zoo.bcosify.image_layers import replace_weight
from robustbench_bcos.model_zoo.cards import BcosifiedSpec, Zoo
from robustbench_bcos.model_zoo.models import find_models
from robustbench_bcos.model_zoo.sources.clip import ClipModel, _towers, open_clip
from robustbench_bcos.model_zoo.zero_shot import zero_shot_of

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


@pytest.mark.parametrize(("tag", "said"), [("none", 0), ("openai", 1)])
def test_random_weights_that_were_asked_for_are_no_warning(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tag: str, said: int
) -> None:
    def create(name: str, pretrained: str | None = None) -> nn.Module:
        # As open_clip does.
        logging.getLogger().warning(f"No pretrained weights loaded for model '{name}'. Model initialized randomly.")
        return nn.Identity()

    monkeypatch.setattr(library, "create_model", create)
    _towers(library, "RN50", tag)
    assert len(caplog.records) == said


@pytest.mark.parametrize(("name", "templates"), [("RN50", "plain"), ("ViT-B-32", "openai")])
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


@pytest.mark.parametrize(
    ("name", "b", "unpooled"),
    [
        ("RN50", 1.0, False),
        ("RN50", 2.0, False),
        ("RN50", 2.0, True),
        ("ViT-B-32", 1.0, False),
        ("ViT-B-32", 2.0, False),
    ],
)
def test_a_b_cosified_tower_has_maps_that_add_up_or_names_what_is_left(name: str, b: float, unpooled: bool) -> None:
    size = VISION[name]["image_size"]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    model = bcosify(load_model(f"clip:{name}@none", classes=CLASSES), images=images, b=b, unpooled=unpooled)
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


def test_without_its_pool_a_tower_has_a_feature_for_each_place() -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    source = load_model("clip:RN50@none", classes=CLASSES)
    model = bcosify(source, images=images, b=1.0, biases=True, unpooled=True)
    texts, tower = zero_shot_of(source), zero_shot_of(source).tower
    pool, tower.attnpool = tower.attnpool, nn.Identity()
    places = tower(source.encoding(images)).flatten(2).transpose(1, 2) + pool.positional_embedding[1:]
    features = nn.functional.normalize(pool.c_proj(pool.v_proj(places)), dim=2)
    expected = texts.scale * (features @ texts.prototypes.T).mean(dim=1)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(RequestError, match="has no pool of attention as CLIP's ResNets have"):
        bcosify(load_model("digits-natural"), images=images[:, :, :8, :8], unpooled=True)


def without_constants(tower: nn.Module) -> None:
    """A network that has no biases, no means that norms take away, and no codes of positions."""
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)  # type: ignore[arg-type]
    for name, parameter in tower.named_parameters():
        if name.endswith(("bias", "positional_embedding")):
            nn.init.zeros_(parameter)


def test_a_card_of_a_b_cosified_tower_is_built_again_and_takes_other_texts(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    source = find_models("clip:RN50@none", Zoo(), templates=("a {}", "the {}"))[0].for_classes(CLASSES)
    assert isinstance(source, ClipModel)
    loaded = source.load()
    model = bcosify(loaded.classifier, images=images, unpooled=True)
    facts = CardFacts(
        name="tower", dataset="digits", image_size=(64, 64), classes=3, texts=source.spec_of(zero_shot_of(model))
    )
    write_bcosified(model, loaded, tmp_path, facts, images)
    [card] = find_models("tower", Zoo([tmp_path]))
    again = card.load()
    assert torch.equal(again.classifier(images), model(images))
    assert (again.texts, card.texts) == (loaded.texts, CLASSES)
    others = ("a flower", "rain")
    found, expected = (zero_shot_of(one.for_texts(others).load().classifier) for one in (card, source))
    torch.testing.assert_close(found.prototypes, expected.prototypes)


# Files of published towers


def published(tower: nn.Module, *, unpooled: bool = False) -> dict[str, Tensor]:
    """As B-cosification saves it: no biases, no codes of positions, sequences numbered anew."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in tower.state_dict().items():
        if key.endswith(("bias", "positional_embedding")) or (unpooled and ("q_proj" in key or "k_proj" in key)):
            continue
        parts = key.split(".")
        if "downsample" in parts:
            place = parts.index("downsample") + 1
            parts[place] = str(int(parts[place]) + 1)
        if tensor.dim() == 4 or "c_proj" in parts:
            parts.insert(-1, "linear")
        if tensor.dim() == 4 and tensor.shape[1] == 3:
            tensor = torch.cat([tensor, -tensor], dim=1) / 2
        tensors[".".join(parts)] = tensor
    return tensors


def saved(tensors: dict[str, Tensor], folder: Path) -> Path:
    file = folder / "last.ckpt"
    torch.save({"state_dict": {f"model.model.{key}": tensor for key, tensor in tensors.items()}}, file)
    return file


@pytest.fixture
def tower(library: ModuleType) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        found: Any = library.create_model("RN50").visual.eval()
        for module in found.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 10.0, 20.0)
    return found


@pytest.mark.parametrize(("unpooled", "entries"), [(False, 279), (True, 277)])
def test_the_published_layout_has_the_names_and_shapes_of_a_converted_tower(
    library: ModuleType, unpooled: bool, entries: int
) -> None:
    with torch.device("meta"):
        whole = library.modified_resnet.ModifiedResNet(layers=[3, 4, 6, 3], output_dim=1024, heads=32).eval()
        tensors = published(whole, unpooled=unpooled)
        replace_weight(whole.conv1, torch.empty(32, 6, 3, 3))
        network = converted(whole, BcosifiedSpec(weights="raw", unpooled=unpooled))
    assert len(tensors) == entries
    found = {name: tensor.shape for name, tensor in placed(tensors, network).items()}
    assert found == {name: tensor.shape for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(("b", "unpooled"), [(1.0, False), (2.0, False), (2.0, True)])
def test_a_published_file_answers_as_the_code_it_was_trained_with(
    tower: Any, unpooled: bool, b: float, tmp_path: Path
) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    file = saved(published(tower, unpooled=unpooled), tmp_path)
    model = load_model(file, architecture="clip:RN50@none", classes=CLASSES, b=b)
    texts, seen = zero_shot_of(model), []
    layers: Any = texts.tower
    handle = layers.layers.layer4.register_forward_hook(lambda _, __, maps: seen.append(maps))
    found = model(images)
    handle.remove()
    pool, tower.attnpool = tower.attnpool, nn.Identity()
    if b == 1:
        without_constants(tower)
        mean, std = model.encoding.mean[:3], model.encoding.std[:3]
        torch.testing.assert_close(seen[0], tower((images - mean) / std), rtol=1e-3, atol=1e-4)
    assert seen[0].norm() > 1e-3
    places = seen[0].flatten(2).permute(2, 0, 1)
    if unpooled:
        values = places @ pool.v_proj.weight.T
        responses = values @ pool.c_proj.weight.T
        features = responses * (responses.abs() / values.norm(dim=2, keepdim=True)) ** (b - 1)
    else:
        # Without the scale of the last layer, whatever B is.
        tokens = torch.cat([places.mean(dim=0, keepdim=True), places])
        features = nn.functional.multi_head_attention_forward(
            *(tokens[:1], tokens, tokens, tokens.shape[2], pool.num_heads, None, None, None, None, False, 0.0),
            *(pool.c_proj.weight, None),
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight,
            v_proj_weight=pool.v_proj.weight,
        )[0]
    expected = texts.scale * (nn.functional.normalize(features, dim=2) @ texts.prototypes.T).mean(dim=0)
    assert expected.std(dim=1).min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    explained = explain(model, images, [[0, 1, 2]] * 2)
    torch.testing.assert_close(explained.contributions.sum(dim=(2, 3)), found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("gone", "more", "said"),
    [
        ("attnpool.k_proj.weight", {}, r"missing layers\.attnpool\.k_proj\.weight \(256, 256\): choose"),
        ("bn1.weight", {"bn9.weight": 8}, r"missing layers\.bn1\.weight \(4,\); surplus bn9\.weight"),
    ],
)
def test_a_published_file_loads_strictly(
    tower: nn.Module, gone: str, more: dict[str, int], said: str, tmp_path: Path
) -> None:
    tensors = published(tower) | {name: torch.ones(size) for name, size in more.items()}
    del tensors[gone]
    with pytest.raises(RequestError, match=said):
        load_model(saved(tensors, tmp_path), architecture="clip:RN50@none", classes=CLASSES)
    with pytest.raises(RequestError, match="takes no argument 'norm': it takes b"):
        load_model(saved(tensors, tmp_path), architecture="clip:RN50@none", classes=CLASSES, norm="batch")


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
        open_clip()
