"""Weights alone, as safetensors, for programs that have the architecture."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from robustbench_bcos.model_zoo.exporting import FORMATS
from robustbench_bcos.model_zoo.exporting.format import AbstractFormat

if TYPE_CHECKING:
    from torch import nn

    from robustbench_bcos.core.types import Classifier, Images


@final
@FORMATS.registered("safetensors")
class Safetensors(AbstractFormat):
    """The state of the network behind the encoding, as checkpoints hold it."""

    suffix = ".safetensors"
    contents = "weights alone, the encoding in the header"

    def dump(self, classifier: "nn.Module", images: "Images", facts: Mapping[str, str]) -> bytes:
        """Serialise the state."""
        from robustbench_bcos.model_zoo.checkpoints.write import serialised
        from robustbench_bcos.model_zoo.classifier import network_of

        return serialised(network_of(classifier), facts=facts)

    def load(self, content: bytes, classifier: "nn.Module") -> "Classifier":
        """A copy of the architecture that has nothing but the file's weights."""
        import torch
        from safetensors.torch import load

        from robustbench_bcos.model_zoo.classifier import network_of

        empty = copy.deepcopy(classifier)
        network = network_of(empty)
        # A tensor that is no part of the state would be missing from the file, and nobody would know.
        own = [value for module in network.modules() for value in vars(module).values()]
        for tensor in (*network.state_dict().values(), *own):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                tensor.data.fill_(torch.nan)
        network.load_state_dict(load(content))
        return empty
