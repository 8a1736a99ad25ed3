"""``export``: files that other programs read, of any model that can be named, compared on real images."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from robustbench_bcos.model_zoo.models import load_model
from tests.cli.command_line import refusal, succeed


def test_another_program_gets_the_logits_of_the_model(tiny_zoo: Path, here: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    out = succeed("export", "tiny-bcos", "--zoo", tiny_zoo, "--format", "onnx")
    assert "on 8 images of digits" in out
    assert "Written to tiny-bcos.onnx: input images, output logits" in out
    assert [file.name for file in here.iterdir()] == ["tiny-bcos.onnx"]
    session = runtime.InferenceSession("tiny-bcos.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((5, 3, 8, 8), dtype=np.float32)
    (logits,) = session.run(["logits"], {"images": images})
    expected = load_model("tiny-bcos", zoo=tiny_zoo)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.ptp(expected))
    assert session.get_modelmeta().custom_metadata_map["model"] == "tiny-bcos"


def test_a_weights_file_is_compared_on_images_of_ones_own(tiny_zoo: Path, here: Path) -> None:
    Image.new("RGB", (8, 8), (200, 100, 50)).save("red.png")
    weights = tiny_zoo / "tiny-natural.safetensors"
    options = ["--format", "safetensors", "--out", "out/weights.safetensors", "red.png"]
    out = succeed("export", weights, "--architecture", "resnet8", *options)
    assert "on 1 image of files" in out
    before, after = load_file(weights), load_file("out/weights.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-natural", "--format", "tflite"], "unknown format 'tflite'"),
        (["digits-nat", "--format", "onnx"], "unknown model 'digits-nat': did you mean 'digits-natural'"),
        (["digits-*", "--format", "torchscript"], "names 9 models"),
        (["digits-natural", "x.png", "--dataset", "digits", "--format", "torchscript"], "give one of them"),
        (["torch.nn:Identity", "--format", "torchscript"], "give image files, or --dataset NAME"),
        (["cifar10jpeg-natural-resnet20", "--format", "torchscript"], "give image files, or --dataset NAME"),
        (["cifar10jpeg-natural-resnet20", "--format", "torchscript", "--dataset", "digits"], "takes images of 32x32"),
        (["some.safetensors", "--format", "torchscript"], "need the architecture"),
        (["digits-natural", "--format", "torchscript", "--limit", "9999"], "limit 9999"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_sentence(here: Path, arguments: list[str], message: str) -> None:
    save_file({"weight": torch.zeros(1)}, "some.safetensors")
    assert message in refusal("export", *arguments)
    assert [file.name for file in here.iterdir()] == ["some.safetensors"]


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "robustbench_bcos.model_zoo.exporting.format.find_package",
        lambda name: None if name == "onnxscript" else found(name),
    )
    said = refusal("export", "digits-natural", "--format", "onnx")
    assert said == "format onnx needs onnxscript, not installed here: pip install onnx onnxscript onnxruntime"
