"""Exported networks answer as their models do, in every format, or nothing is written."""

import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Classifier
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.bcos.layers import b_of
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import NoEncoding
from robustbench_bcos.model_zoo.exporting import FORMATS
from robustbench_bcos.model_zoo.exporting.export import SAME, export, facts_of
from robustbench_bcos.model_zoo.exporting.format import AbstractFormat
from robustbench_bcos.model_zoo.models import Model, find_models, find_weights, load_model, own_model

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")

BCOS = [
    name
    for name, entry in Zoo().entries.items()
    if entry.card.family == "bcos" and entry.card.weights.url is None and entry.card.training.kind == "natural"
]
"""Cards whose weights are packaged, of every network once: others have the same with other weights."""

DIGITS = EvalSubset.of(Digits("test"), 4).batch(0, 4).images


def packaged(name: str) -> tuple[Model, Tensor]:
    (source,) = find_models(name, Zoo())
    model = source.load()
    assert model.image_size is not None
    return model, nn.functional.interpolate(DIGITS, model.image_size)


def of_code(network: nn.Module) -> Model:
    return own_model("own", freeze(network))


@pytest.mark.parametrize("name", BCOS)
@pytest.mark.parametrize("form", ["torchscript", "safetensors"])
def test_every_packaged_bcos_network_keeps_its_logits(form: str, name: str, tmp_path: Path) -> None:
    keeps_its_logits(form, name, tmp_path / "network")


# Of all cards, torch's symbolic exporter takes minutes; it is the older one below that has the same fault.
def test_a_bcos_network_as_onnx_keeps_its_logits(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    keeps_its_logits("onnx", "digits-bcos-b2.5", tmp_path / "network")


@pytest.mark.parametrize("name", BCOS)
@pytest.mark.filterwarnings("ignore")
def test_every_packaged_bcos_network_survives_the_exporter_that_traces(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, images = packaged(name)
    stream = io.BytesIO()
    torch.onnx.export(
        model.classifier,
        (images,),
        stream,
        dynamo=False,
        input_names=["images"],
        dynamic_axes={"images": {0: "batch"}},
    )
    session = runtime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    for size in (1, len(images)):
        (logits,) = session.run(None, {"images": images[:size].numpy()})
        assert same(torch.from_numpy(logits), model.classifier(images[:size]))


def keeps_its_logits(form: str, name: str, file: Path) -> None:
    model, images = packaged(name)
    found = export(model, form, file, images)
    assert found.difference < 1e-5
    exported = FORMATS[form].load(file.read_bytes(), model.classifier)
    assert same(exported(images[:3]), model.classifier(images[:3]))
    # Of a network that compares with texts, the header names the tower alone.
    if form == "safetensors" and not model.texts:
        assert torch.equal(load_model(file)(images), model.classifier(images))


def same(logits: Tensor, expected: Tensor) -> bool:
    return float((logits - expected).abs().max()) < 1e-5 * float(expected.max() - expected.min())


def test_a_file_says_what_it_holds(tmp_path: Path) -> None:
    model, images = packaged("digits-bcos-b2.5")
    export(model, "safetensors", tmp_path / "weights", images)
    with safe_open(tmp_path / "weights", "pt") as file:
        facts = file.metadata()
    assert facts["model"] == "digits-bcos-b2.5"
    assert facts["b"] == "2.5"
    assert facts["encoding"] == "add_inverse"
    assert facts["weights_sha256"] == model.weights_sha256
    export(model, "torchscript", tmp_path / "program", images)
    extra = {"facts.json": ""}
    torch.jit.load(tmp_path / "program", _extra_files=extra)
    assert json.loads(extra["facts.json"]) == facts


def test_an_encoding_is_written_as_the_command_line_takes_it(tmp_path: Path) -> None:
    (source,) = find_models("torchvision:resnet18@none", Zoo())
    model, images = source.load(), torch.rand(1, 3, 32, 32)
    export(model, "safetensors", tmp_path / "weights", images)
    with safe_open(tmp_path / "weights", "pt") as file:
        assert file.metadata()["encoding"] == "normalize:0.485,0.456,0.406/0.229,0.224,0.225"
    assert torch.equal(load_model(tmp_path / "weights")(images), model.classifier(images))


def test_weights_are_read_back_as_their_header_says_and_as_is_stated(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    model, images = packaged("digits-bcos-b2.5")
    export(model, "safetensors", file, images)
    for architecture in (None, "bcos_resnet8"):
        read = find_weights(file, architecture).load()
        assert torch.equal(read.classifier(images), model.classifier(images))
        assert read.assumed == "strides=bcos_resnet8"
    assert b_of(find_weights(file, None, arguments={"b": 2.0}).load().classifier) == 2.0
    normalised = "normalize:0.5,0.5,0.5/0.25,0.25,0.25"
    model = find_weights(Zoo()["digits-natural"].weights_file, "resnet8", encoding=normalised).load()
    export(model, "safetensors", tmp_path / "normalised", images)
    assert torch.equal(load_model(tmp_path / "normalised")(images), model.classifier(images))
    # An exponent that was assumed is one that the network has.
    assumed = find_weights(Zoo()["digits-bcos-b2.5"].weights_file, "bcos_resnet8").load()
    assert json.loads(facts_of(assumed)["arguments"])["b"] == 2.0
    # What another program has written there may mean anything.
    save_file(load_file(file), file, {"architecture": "bcos_resnet8", "arguments": '{"b": 2.5}'})
    with pytest.raises(RequestError, match="need the architecture"):
        find_weights(file, None)
    for damaged in ('{"b": 2', "[1, 2]"):
        header = {"exported_by": "robustbench_bcos", "architecture": "bcos_resnet8", "arguments": damaged}
        save_file(load_file(file), file, header)
        with pytest.raises(RequestError, match="have a header that cannot be read: export them again"):
            find_weights(file, None)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits


class ByBrightness(Linear):
    """A program, of which a trace is one path."""

    def __init__(self, above: float = 0.5) -> None:
        super().__init__()
        self.above = above

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return -logits if images.mean() > self.above else logits


class OfTwo(Linear):
    """For batches of two: a trace keeps the number."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + torch.ones(len(images.tolist()), 1)


class Random(Linear):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + torch.randn_like(images))


class Hidden(Linear):
    """A weight that is no parameter, so that no checkpoint has it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.full((10,), 3.0)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.scale


@pytest.mark.parametrize(
    ("network", "form", "message"),
    [
        (ByBrightness, "torchscript", "other logits than the model on a batch of 1"),
        (OfTwo, "torchscript", "fails on a batch of 16|gives outputs of shape"),
        (Random, "torchscript", "answers differently when it is asked again"),
        (Hidden, "safetensors", "other logits"),
        (lambda: ImageClassifier(NoEncoding(), Hidden()), "safetensors", "other logits"),
    ],
    ids=["a branch", "a batch size", "chance", "a hidden weight", "one behind an encoding"],
)
def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(
    network: Callable[[], nn.Module], form: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        export(of_code(network()), form, tmp_path / "network", DIGITS)
    assert list(tmp_path.iterdir()) == []


def test_code_that_decides_is_named_though_no_image_takes_the_other_way(tmp_path: Path) -> None:
    found = export(of_code(ByBrightness(above=2.0)), "torchscript", tmp_path / "network", DIGITS)
    assert re.fullmatch(r"test_export\.py:\d+", found.one_path)


def changed(images: Tensor, logits: Tensor) -> Tensor:
    return logits * (1 + 10 * SAME * (logits == logits.max()))


def not_finite(images: Tensor, logits: Tensor) -> Tensor:
    return logits * torch.nan


def only_large_batches(images: Tensor, logits: Tensor) -> Tensor:
    return logits if len(images) <= 2 else logits.flip(0)


def one_class_less(images: Tensor, logits: Tensor) -> Tensor:
    return logits[:, 1:]


def failing(images: Tensor, logits: Tensor) -> Tensor:
    raise ValueError("no such kernel")


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (changed, "other logits"),
        (not_finite, "other logits"),
        (only_large_batches, "other logits than the model on a batch of 16"),
        (one_class_less, r"shape \(1, 9\)"),
        (failing, "no such kernel"),
    ],
)
def test_a_format_that_changes_the_answers_is_found_out(
    fault: Callable[[Tensor, Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    @FORMATS.registered("faulty")
    class Faulty(AbstractFormat):
        suffix = ".faulty"
        contents = "nothing right"

        def dump(self, classifier: nn.Module, images: Tensor, facts: Mapping[str, str]) -> bytes:
            return b"faulty"

        def load(self, content: bytes, classifier: nn.Module) -> Classifier:
            return lambda images: fault(images, classifier(images))

    with pytest.raises(RequestError, match=message) as refused:
        export(of_code(Linear()), "faulty", tmp_path / "network", DIGITS)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_one_image_is_enough_for_several_batch_sizes(tmp_path: Path) -> None:
    found = export(of_code(Linear()), "torchscript", tmp_path / "new" / "network", DIGITS[:1])
    assert (found.images, found.batch_sizes, found.classes) == (4, (1, 2, 4), 10)
    assert (tmp_path / "new" / "network").is_file()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "network").write_text("mine", encoding="utf-8")
    with pytest.raises(RequestError, match="is there already"):
        export(of_code(Linear()), "torchscript", tmp_path / "network", DIGITS)
    assert (tmp_path / "network").read_text(encoding="utf-8") == "mine"
