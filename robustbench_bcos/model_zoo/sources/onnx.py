"""Networks as ONNX files, which users of verifiers have; onnx2torch makes modules of them."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import nn

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.model_zoo import ONNX
from robustbench_bcos.model_zoo.agreement import SAME, apart
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.encodings import parse_encoding
from robustbench_bcos.model_zoo.foreign import check_foreign
from robustbench_bcos.model_zoo.sources.model import Model, ModelSource, own_model

SIDES = (32, 28, 64, 224)
"""Of the images that a network which leaves their size open is shown, until it takes them."""


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
    """The network of an ONNX file, in evaluation mode, which answers as ONNX Runtime does.

    Raises:
        RequestError: there is no such file, it is damaged, names files outside its folder, or has operators that
            onnx2torch does not know or converts to something else; or a package for it is not installed.
    """
    check_foreign(ONNX, str(file))
    import onnx
    from onnx2torch import convert

    try:
        graph = onnx.load(str(file), load_external_data=False)
        if not graph.graph.node:
            raise ValueError("it has no operators")
        _check_external_data(file, graph)
        # Its warnings are about what is checked below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = convert(onnx.load(str(file)))
    except RequestError:
        raise
    except NotImplementedError as error:
        raise RequestError(
            f"--model onnx:{file} needs what onnx2torch lacks ({reason_of(error)}): export it with an older set of "
            "operators, torch.onnx.export(..., dynamo=False, opset_version=17)"
        ) from None
    except Exception as error:  # protobuf and onnx2torch document no exceptions for damaged files.
        raise RequestError(
            f"--model onnx:{file} cannot be read ({reason_of(error)}): give a whole ONNX file of a classifier"
        ) from None
    # onnx2torch's networks come in training mode: one batch would move the statistics of their norms.
    _check_conversion(file, network.eval())
    return network


def _check_conversion(file: Path, network: nn.Module) -> None:
    """onnx2torch converts some operators to others without a word; the networks are compared on drawn pixels."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
        pixels, expected = _asked(session, source)
    except Exception as error:
        raise RequestError(
            f"--model onnx:{file} cannot be run by ONNX Runtime ({reason_of(error)}): give a classifier with one "
            "input, or export it again"
        ) from None
    remedy = "export it with other operators or another opset_version, or give its Python code, --model MODULE:FUNCTION"
    said = f"--model onnx:{file} was converted to another network by onnx2torch"
    try:
        with torch.no_grad():
            logits = network(torch.from_numpy(pixels)).reshape(1, -1)
    except Exception as error:
        raise RequestError(f"{said}, which fails ({reason_of(error)}): {remedy}") from None
    if logits.shape != expected.shape:
        raise RequestError(f"{said}, with {logits.shape[1]} outputs for {expected.shape[1]}: {remedy}")
    if not apart(logits, expected) <= SAME:
        off, largest = float((logits - expected).abs().max()), float(expected.abs().max())
        raise RequestError(f"{said}, off by {off:.3g} on outputs up to {largest:.3g}: {remedy}")


def _asked(session: Any, source: Any) -> tuple[np.ndarray, torch.Tensor]:  # noqa: ANN401 (no types)
    """Pixels in [0, 1] of a shape that the file takes, and its first output, in a row."""
    named = {"tensor(double)": np.float64, "tensor(float16)": np.float16}
    rng, fixed = np.random.default_rng(0), [size for size in source.shape[1:] if isinstance(size, int)]
    sides = SIDES if len(fixed) < len(source.shape) - 1 else SIDES[:1]
    for side in sides:
        shape = [size if isinstance(size, int) else (side if axis else 2) for axis, size in enumerate(source.shape)]
        pixels = rng.random(shape).astype(named.get(source.type, np.float32))
        try:
            answer = session.run(None, {source.name: pixels})[0]
        except Exception:
            if side == sides[-1]:
                raise
        else:
            break
    return pixels, torch.from_numpy(answer).reshape(1, -1)


def _check_external_data(file: Path, graph: Any) -> None:  # noqa: ANN401 (onnx has no types)
    """Tensors may lie in further files; those must be in the folder of the first."""
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            place = PurePosixPath(entry.value)
            if entry.key == "location" and (place.is_absolute() or ".." in place.parts):
                raise RequestError(
                    f"--model onnx:{file} names weights outside its folder ({entry.value}): put all its files into one"
                )
