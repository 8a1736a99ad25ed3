"""A format: the state dict as torch saves it."""

import copy
import io
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from robustbench_bcos.core.types import Classifier
from robustbench_bcos.model_zoo.exporting import FORMATS
from robustbench_bcos.model_zoo.exporting.format import AbstractFormat


@final
@FORMATS.registered("state_dict")
class StateDict(AbstractFormat):
    suffix = ".pth"
    contents = "torch.load reads it"

    def dump(self, classifier: nn.Module, images: Tensor, facts: Mapping[str, str]) -> bytes:
        stream = io.BytesIO()
        torch.save(classifier.state_dict(), stream)
        return stream.getvalue()

    def load(self, content: bytes, classifier: nn.Module) -> Classifier:
        empty = copy.deepcopy(classifier)
        for tensor in empty.state_dict().values():
            tensor.zero_()
        empty.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
        return empty
