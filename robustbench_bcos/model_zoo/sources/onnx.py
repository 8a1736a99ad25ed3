"""Networks as ONNX files, which users of verifiers have; onnx2torch makes modules of them."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.encodings import parse_encoding
from robustbench_bcos.model_zoo.sources.model import Model, ModelSource, own_model


@dataclass(frozen=True)
class OnnxModel(ModelSource):
    """``onnx:FILE``: from images in [0, 1] of shape (N, 3, height, width), or from what ``encoding`` makes of them.

    Nothing in the file is executed: its operators are looked up in onnx2torch's table.
    """

    file: Path
    encoding: str | None = None
    """In front of the network; by default there is none."""

    @property
    def name(self) -> str:
        """``onnx:`` and the file's name."""
        return f"onnx:{self.file.name}"

    def load(self) -> Model:
        """Read, convert and freeze."""
        network = read_onnx(self.file)
        encoding = parse_encoding("none" if self.encoding is None else self.encoding)
        model = own_model(self.name, freeze(ImageClassifier(encoding, network)))
        return replace(model, architecture=self.file.stem, weights_sha256=sha256_of(self.file))


def read_onnx(file: Path) -> nn.Module:
    """The network of an ONNX file, in evaluation mode.

    Raises:
        RequestError: there is no such file, it is damaged, names files outside its folder, or has operators that
            onnx2torch does not know; or onnx2torch is not installed.
    """
    try:
        import onnx
        from onnx2torch import convert
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnx2torch"):
            raise
        raise RequestError(
            f"{error.name}, which reads ONNX files, is not installed: pip install onnx onnx2torch"
        ) from None
    if not file.is_file():
        raise RequestError(f"--model onnx:{file} is no file: check the path")
    try:
        graph = onnx.load(str(file), load_external_data=False)
        if not graph.graph.node:
            raise ValueError("it has no operators")
        _check_external_data(file, graph)
        network: nn.Module = convert(onnx.load(str(file)))
    except RequestError:
        raise
    except NotImplementedError as error:
        raise RequestError(
            f"--model onnx:{file} needs what onnx2torch lacks ({reason_of(error)}): export it with an older set of "
            "operators, torch.onnx.export(..., dynamo=False, opset_version=17)"
        ) from None
    except Exception as error:  # Protocol buffers and converters raise nearly anything.
        raise RequestError(
            f"--model onnx:{file} cannot be read ({reason_of(error)}): give a whole ONNX file of a classifier"
        ) from None
    # onnx2torch's networks come in training mode: one batch would move the statistics of their norms.
    return network.eval()


def _check_external_data(file: Path, graph: Any) -> None:  # noqa: ANN401 (onnx has no types)
    """Tensors may lie in further files; those must be in the folder of the first."""
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            place = PurePosixPath(entry.value)
            if entry.key == "location" and (place.is_absolute() or ".." in place.parts):
                raise RequestError(
                    f"--model onnx:{file} names weights outside its folder ({entry.value}): put all its files into one"
                )
