"""ONNX files as models: they answer as what they were exported from, and nothing is run or followed."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import external_data_helper
from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import find_models, load_model


class Tiny(nn.Sequential):
    """With a batch norm, whose statistics a network in training mode would move."""

    def __init__(self) -> None:
        convolution = nn.Conv2d(3, 4, 3, padding=1)
        super().__init__(convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 5, 7))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture
def file(tmp_path: Path, network: nn.Module) -> Path:
    written = tmp_path / "tiny.onnx"
    shown = (torch.rand(2, 3, 6, 5),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            shown,
            str(written),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    return written


def test_it_answers_as_the_network_it_was_exported_from(file: Path, network: nn.Module) -> None:
    images = torch.rand(5, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    loaded = load_model(f"onnx:{file}")
    for _ in range(2):
        torch.testing.assert_close(loaded(images), network(images).detach())
    encoded = load_model(f"onnx:{file}", encoding="normalize:0.5,0.5,0.5/0.5,0.5,0.5")
    torch.testing.assert_close(encoded(images), network((images - 0.5) / 0.5).detach())
    (source,) = find_models(f"onnx:{file}", Zoo())
    model = source.load()
    assert (model.name, model.architecture, len(model.weights_sha256)) == ("onnx:tiny.onnx", "tiny", 64)
    assert not any(parameter.requires_grad for parameter in model.classifier.parameters())


def test_weights_outside_its_folder_are_not_read(file: Path, tmp_path: Path) -> None:
    graph = onnx.load(str(file))
    external_data_helper.convert_model_to_external_data(graph, location="weights.bin", size_threshold=0)
    (tmp_path / "split").mkdir()
    onnx.save(graph, str(tmp_path / "split/tiny.onnx"))
    load_model(f"onnx:{tmp_path}/split/tiny.onnx")
    graph = onnx.load(str(tmp_path / "split/tiny.onnx"), load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../split/weights.bin" if entry.key == "location" else entry.value
    (tmp_path / "split/tiny.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(RequestError, match=r"names weights outside its folder \(\.\./split/weights\.bin\): put all"):
        load_model(f"onnx:{tmp_path}/split/tiny.onnx")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "is no file: check the path"), (b"PK", "cannot be read"), (b"", "cannot")]
)
def test_what_is_no_network_is_refused_in_a_sentence(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(RequestError, match=said) as caught:
        load_model(f"onnx:{tmp_path}/x.onnx")
    assert "\n" not in str(caught.value)


def one_operator(file: Path, kind: str, opset: int, **settings: object) -> Path:
    """A network of a convolution's output, one operator, and its outputs laid flat."""
    further = settings.pop("further", {})
    assert isinstance(further, dict)
    nodes = [
        onnx.helper.make_node(kind, ["x", *further], ["y"], **settings),
        onnx.helper.make_node("Flatten", ["y"], ["logits"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        kind,
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 6, 5])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in further.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8), file)
    return file


TWICE = {"roi": np.array([], np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}


@pytest.mark.parametrize(
    ("kind", "opset", "settings"),
    [
        ("CumSum", 14, {"further": {"axis": np.array(1)}}),
        ("Pad", 9, {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 0.5}),
        ("ReduceMax", 13, {"axes": [1, -1], "keepdims": 0}),
        ("ReduceMin", 13, {"axes": [1, -1], "keepdims": 0}),
        ("Resize", 13, {"further": TWICE, "mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
        (
            "ConvTranspose",
            13,
            {"further": {"w": np.ones((3, 2, 3, 3), np.float32)}, "strides": [2, 2], "output_shape": [12, 10]},
        ),
    ],
)
def test_what_onnx2torch_converts_to_another_network_is_refused(
    tmp_path: Path, kind: str, opset: int, settings: dict[str, object]
) -> None:
    """Valid files, which onnx2torch 1.5.15 converts without a word to networks that answer otherwise.

    A running sum that names no direction runs backwards, a padding of 0.5 is one of 0, the largest over the axes 1 and
    -1 is that over 0 and the last, enlarging rounds places its own way, and a demanded output shape is not looked at.
    """
    file = one_operator(tmp_path / "x.onnx", kind, opset, **dict(settings))
    with pytest.raises(RequestError, match=r"was converted to another network by onnx2torch, .*: export it with other"):
        load_model(f"onnx:{file}")


def test_what_it_converts_rightly_is_taken_whatever_sizes_the_file_leaves_open(tmp_path: Path) -> None:
    file = one_operator(tmp_path / "x.onnx", "Pad", 9, pads=[0, 0, 1, 1, 0, 0, 1, 1])
    assert load_model(f"onnx:{file}")(torch.rand(4, 3, 6, 5)).shape == (4, 3 * 8 * 7)
    model = onnx.load(str(file))
    for size, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
        size.dim_param = name
    onnx.save(model, str(file))
    assert load_model(f"onnx:{file}")(torch.rand(4, 3, 6, 5)).shape == (4, 3 * 8 * 7)
