"""What every encoder of texts gives, and the features that come with the package."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, final

import torch
from safetensors import safe_open

from robustbench_bcos.core.types import Float, Tensor

PACKAGED = Path(str(files("robustbench_bcos.model_zoo.texts"))) / "features"


class AbstractTextEncoder(ABC):
    """From texts to features; a new one is registered in ``TEXT_ENCODERS``."""

    name: ClassVar[str]
    width: ClassVar[int]
    """Numbers of a feature."""

    @final
    def features(self, texts: Sequence[str]) -> Float[Tensor, "text {self.width}"]:
        """A feature for each text: those that come with the package, whether or not the encoder is installed.

        Raises:
            RequestError: the encoder is needed and not installed, or would cut a text.
        """
        known = packaged_features(self.name)
        keys = {text: self.key(text) for text in texts}
        others = [text for text, key in keys.items() if key not in known]
        made = dict(zip(others, self.encode(others), strict=True)) if others else {}
        return torch.stack([made[text] if text in made else known[keys[text]] for text in texts])

    def key(self, text: str) -> str:
        """What of a text the encoder tells apart."""
        return text

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "text {self.width}"]:
        """Compute the features.

        Raises:
            RequestError: the encoder is not installed, or would cut a text.
        """


@cache
def packaged_features(name: str) -> dict[str, Tensor]:
    """Features by text that come with the package, kept in half precision."""
    file = PACKAGED / f"{name}.safetensors"
    if not file.is_file():
        return {}
    with safe_open(str(file), framework="pt") as opened:
        texts = json.loads(opened.metadata()["texts"])
        return dict(zip(texts, opened.get_tensor("features").float(), strict=True))
