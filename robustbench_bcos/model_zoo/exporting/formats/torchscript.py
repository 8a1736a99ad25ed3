"""TorchScript, for programs of C++ and for Python without this package."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from robustbench_bcos.model_zoo.exporting import FORMATS
from robustbench_bcos.model_zoo.exporting.format import AbstractFormat

if TYPE_CHECKING:
    from torch import nn

    from robustbench_bcos.core.types import Classifier, Images

FACTS = "facts.json"
"""Name of the extra file inside the archive."""


@final
@FORMATS.registered("torchscript")
class TorchScript(AbstractFormat):
    """The whole classifier, encoding included, as one pass through it was traced; it has gradients."""

    suffix = ".pt"
    contents = "torch.jit.load reads it"

    def dump(self, classifier: "nn.Module", images: "Images", facts: Mapping[str, str]) -> bytes:
        """Trace a pass."""
        import json

        import torch

        traced = torch.jit.trace(classifier, (images,), check_trace=False)
        stream = io.BytesIO()
        torch.jit.save(traced, stream, _extra_files={FACTS: json.dumps(facts)})
        return stream.getvalue()

    def load(self, content: bytes, classifier: "nn.Module") -> "Classifier":
        """The module that the file holds."""
        import torch

        module: Classifier = torch.jit.load(io.BytesIO(content))
        return module
