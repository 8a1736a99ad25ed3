"""``explain`` and ``localise`` with texts as classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image

from robustbench_bcos.model_zoo.architectures import initialise
from robustbench_bcos.model_zoo.cards import ModelSpec
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.classifier import build_classifier, freeze
from robustbench_bcos.model_zoo.texts import TEXT_ENCODERS
from robustbench_bcos.model_zoo.texts.encoders import all_minilm_l6_v2
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork
from tests.cli.command_line import call, refusal, succeed
from tests.drafts import TOWER

TEXTS = ("dog", "cat", "ship")
CARD = TOWER | {"texts": TOWER["texts"] | {"classes": list(TEXTS), "templates": ["{}"]}}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    network = freeze(build_classifier(ModelSpec.model_validate(CARD))).network
    assert isinstance(network, ZeroShotNetwork)
    initialise(network, torch.Generator().manual_seed(0))
    network.compare_with(TEXT_ENCODERS["all_minilm_l6_v2"].features(TEXTS))
    weights = {"file": "tower.safetensors", "sha256": write_weights(network, folder / "tower.safetensors")}
    (folder / "tower.toml").write_text(tomli_w.dumps(CARD | {"weights": weights, "licence": "CC0-1.0"}), "utf-8")
    return folder


@pytest.fixture
def file(here: Path) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(levels).save(here / "one.png")
    return here / "one.png"


def explained(*arguments: object) -> tuple[str, dict[str, Any]]:
    out = succeed("explain", *arguments, "--overwrite")
    with np.load("explanations/maps.npz", allow_pickle=False) as found:
        return out, dict(found)


def test_texts_are_classes_in_place_of_the_cards(zoo: Path, file: Path) -> None:
    out, own = explained(file, "--model", "tower", "--zoo", zoo)
    assert own["logits"].shape == (1, 3)
    assert TEXTS[own["logits"].argmax()] in out
    texts = ["a photo of a frog", "A photo of a horse."]
    out, found = explained(file, "--model", "tower", "--zoo", zoo, *(f"--text={text}" for text in texts))
    assert found["logits"].shape == (2, 2)
    assert texts[found["logits"][0].argmax()] in out
    np.testing.assert_allclose(found["contributions"].sum(axis=(1, 2)), found["logits"][0], atol=1e-5)
    out, asked = explained(file, "--model", "tower", "--zoo", zoo, "--text=dog", "--text=ship", "--target=ship")
    assert asked["contributions"].sum() == pytest.approx(asked["logits"][0, 1], abs=1e-5)


@pytest.mark.parametrize("contrast", ["runner_up", "runner-up", "mean"])
def test_a_contrast_sums_to_the_difference(zoo: Path, file: Path, contrast: str) -> None:
    out, found = explained(file, "--model", "tower", "--zoo", zoo, "--contrast", contrast)
    logits = np.sort(found["logits"][0])
    compared = logits.mean() if contrast == "mean" else logits[1]
    assert found["contributions"].sum() == pytest.approx(logits[2] - compared, abs=1e-5)
    assert f"contrast {contrast.replace('-', '_')}" in " ".join(out.split())


def test_images_of_a_dataset_are_compared_with_texts_that_are_no_classes_of_it(zoo: Path) -> None:
    out, found = explained(
        *("--dataset", "digits", "--images", "3,14", "--model", "tower", "--zoo", zoo),
        *("--text", "animal", "--text", "vehicle"),
    )
    assert found["logits"].shape == (4, 2)
    assert found["targets"].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(
        found["contributions"].sum(axis=(1, 2)), found["logits"][range(4), [0, 1, 0, 1]], atol=1e-5
    )
    assert ("animal" in out) or ("vehicle" in out)


def test_what_is_no_text_is_refused_in_one_sentence(zoo: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = ("explain", file, "--model", "tower", "--zoo", zoo)
    assert "too few texts, 1: an image is compared with at least two" in refusal(*tower, "--text", "dog")
    assert "text 'Dog ' is given twice: leave one of them out" in refusal(*tower, "--text", "dog", "--text", "Dog ")
    assert "text 1 is empty" in refusal(*tower, "--text", "dog", "--text", " ")
    assert "knows no texts: leave them out" in refusal("explain", file, "--model", "digits-bcos-b2", "--text", "dog")
    assert "unknown contrast 'next'" in refusal(*tower, "--contrast", "next")
    monkeypatch.setattr(all_minilm_l6_v2, "find_package", lambda _: None)
    outcome = call("run", "--dataset", "digits", "--model", "tower", "--zoo", zoo, "--limit", 2)
    assert outcome.code == 2
    assert "text 'zero' is none of" in outcome.err or "text '0' is none of" in outcome.err
