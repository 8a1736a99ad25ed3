"""Classifiers of torchvision, with weights through torch.hub's cache."""

import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.framing import Framing
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.foreign import not_listed
from robustbench_bcos.model_zoo.sources.library import (
    RANDOM,
    AbstractLibrary,
    InputSpec,
    Trained,
    weights_only,
)

WITHOUT_AUXILIARY_HEADS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": True},
    "inception_v3": {"aux_logits": False, "transform_input": True, "init_weights": True},
}
"""As torchvision builds them for its weights; the auxiliary heads are used in training only."""


AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")


class Torchvision(AbstractLibrary):
    """``torchvision.models``."""

    prefix = "torchvision"

    def check(self, name: str, tag: str) -> None:
        """Names as in ``torchvision.models``, tags as in its enumerations of weights."""
        classifiers = torchvision.models.list_models(module=torchvision.models)
        if name not in classifiers and name in torchvision.models.list_models():
            raise RequestError(
                f"torchvision:{name} does not classify RGB images in floating point, as torchvision's networks for "
                "detection, segmentation, video and optical flow and its quantized ones do not: choose a classifier"
            )
        if name not in classifiers:
            raise not_listed("torchvision.models", name, classifiers)
        tags = [*torchvision.models.get_model_weights(name).__members__, RANDOM]
        if tag and tag not in tags:
            raise unknown(f"weights of torchvision:{name}", tag, tags)

    def input_spec(self, name: str, tag: str) -> InputSpec:
        """From the transforms that belong to the weights."""
        preset = _weights(name, tag).transforms()
        (crop,), (resize,) = preset.crop_size, preset.resize_size
        framing = Framing(resize=resize, crop=(crop, crop), interpolation=preset.interpolation.value)
        return InputSpec(tuple(preset.mean), tuple(preset.std), framing)

    def build(self, name: str, arguments: Mapping[str, Any]) -> nn.Module:
        """Without auxiliary heads, unless the arguments ask for them."""
        network: nn.Module = torchvision.models.get_model(
            name, weights=None, **{**WITHOUT_AUXILIARY_HEADS.get(name, {}), **arguments}
        )
        return network

    def head(self, name: str) -> str:
        """The last weights of the network."""
        with torch.device("meta"):
            state = self.build(name, {}).state_dict()
        return [tensor for tensor in state if tensor.endswith("weight")][-1]

    def arguments_of(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Also whether the file has auxiliary heads."""
        heads = any(tensor.startswith(AUXILIARY_HEADS) for tensor in tensors)
        return super().arguments_of(name, tensors) | ({"aux_logits": True} if heads else {})

    def trained(self, name: str, tag: str) -> Trained:
        """Let torchvision load them, from a file whose digest has been checked."""
        weights = _weights(name, tag)
        file = _cached(f"torchvision:{name}", weights.url)
        try:
            with weights_only():
                network = torchvision.models.get_model(name, weights=weights, progress=False)
        except Exception as error:  # torch raises nearly anything over a damaged file.
            raise RequestError(
                f"weights {file} do not fit torchvision:{name} ({reason_of(error)}): delete the file"
            ) from error
        return Trained(network, sha256_of(file))


def _weights(name: str, tag: str) -> Any:  # noqa: ANN401 (an enumeration per network)
    members = torchvision.models.get_model_weights(name)
    return members.DEFAULT if tag in ("", RANDOM) else members[tag]


def _cached(name: str, url: str) -> Path:
    """The file in torch.hub's cache, downloaded if needed, with the digest that is part of its name.

    Raises:
        RequestError: it cannot be downloaded, or has another digest.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    published = re.search(r"-([0-9a-f]{8,})\.", file.name)
    digest = published.group(1) if published else None
    if not file.exists():
        _download(name, url, file, digest)
    found = sha256_of(file)
    if digest is not None and not found.startswith(digest):
        raise RequestError(
            f"weights {file} have SHA-256 {found}, and their name says {digest}: delete the file, and get it again "
            f"from {url}"
        )
    return file


def _download(name: str, url: str, file: Path, digest: str | None) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with redirect_stdout(sys.stderr):
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise RequestError(
            f"the weights of {name} are not here and cannot be downloaded ({reason}): get them from {url} and put "
            f"them at {file}, or take random ones with {name}@{RANDOM}"
        ) from None
