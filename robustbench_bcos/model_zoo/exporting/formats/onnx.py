"""ONNX, by torch's exporter, for runtimes in other languages and on other devices."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from robustbench_bcos.model_zoo.exporting import FORMATS
from robustbench_bcos.model_zoo.exporting.format import AbstractFormat

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_bcos.core.types import Classifier, Images

INPUT, OUTPUT = "images", "logits"


@final
@FORMATS.registered("onnx")
class Onnx(AbstractFormat):
    """The whole classifier, encoding included; one input and one output, whose first axis may have any length."""

    suffix = ".onnx"
    contents = f"input {INPUT}, output {OUTPUT}"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def dump(self, classifier: "nn.Module", images: "Images", facts: Mapping[str, str]) -> bytes:
        """Follow the network symbolically."""
        import onnx
        import torch

        program = torch.onnx.export(
            classifier,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None
        model = program.model_proto
        onnx.helper.set_model_props(model, dict(facts))
        return bytes(model.SerializeToString())

    def load(self, content: bytes, classifier: "nn.Module") -> "Classifier":
        """A session of ONNX Runtime on the CPU."""
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

        def classify(images: "Tensor") -> "Tensor":
            (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
            return torch.from_numpy(logits)

        return classify
