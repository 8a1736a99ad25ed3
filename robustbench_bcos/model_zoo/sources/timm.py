"""Classifiers of timm, an optional dependency, with weights through its own cache."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
from huggingface_hub import try_to_load_from_cache
from timm.data.config import resolve_data_config
from timm.models import get_pretrained_cfg
from torch import nn

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.framing import Framing, Interpolation
from robustbench_bcos.model_zoo.foreign import not_listed
from robustbench_bcos.model_zoo.sources.library import (
    RANDOM,
    AbstractLibrary,
    InputSpec,
    Trained,
    weights_only,
)
from robustbench_bcos.model_zoo.sources.model import state_digest

PATIENCE = 10.0
"""Seconds to wait for the first answer of the server that has the weights."""


class Timm(AbstractLibrary):
    """``timm.list_models()``. A tag, after ``@`` or after a dot as timm writes it, names weights."""

    prefix = "timm"

    def check(self, name: str, tag: str) -> None:
        """Names with or without the tag of their weights."""
        architecture, _, dotted = name.partition(".")
        known = timm.list_models()
        if architecture not in known:
            raise not_listed("timm", architecture, known)
        asked = dotted or ("" if tag == RANDOM else tag)
        trained = timm.list_models(f"{architecture}.*", pretrained=True)
        if asked and f"{architecture}.{asked}" not in trained:
            raise not_listed("timm", f"{architecture}.{asked}", trained)
        if _config(name, tag).num_classes < 2:
            raise RequestError(
                f"timm:{name} gives features and no classes: choose a classifier, or put a head on it in a module of "
                "your own"
            )

    def input_spec(self, name: str, tag: str) -> InputSpec:
        """From the configuration of the weights, at the size they were trained with."""
        data = resolve_data_config(pretrained_cfg=_config(name, tag).to_dict())
        _, height, width = data["input_size"]
        middle = data["crop_mode"] == "center"
        # As timm's own evaluation, except that it pads an image with black that is smaller than its crop.
        shorter = min(height, width)
        resize = max(shorter, int(shorter / data["crop_pct"])) if middle else None
        interpolation: Interpolation = "bilinear" if data["interpolation"] == "bilinear" else "bicubic"
        framing = Framing(resize=resize, crop=(height, width), interpolation=interpolation)
        return InputSpec(data["mean"], data["std"], framing)

    def build(self, name: str, arguments: Mapping[str, Any]) -> nn.Module:
        """Any argument of timm's ``create_model``."""
        network: nn.Module = timm.create_model(name.partition(".")[0], pretrained=False, **arguments)
        return network

    def head(self, name: str) -> str:
        """Named in timm's configuration."""
        classifier = _config(name, "").classifier
        return f"{classifier if isinstance(classifier, str) else (classifier or ('',))[0]}.weight"

    def trained(self, name: str, tag: str) -> Trained:
        """Let timm find, download and load them."""
        config = _config(name, tag)
        try:
            cached = _cached(config)
            if cached is None:
                _reach(config)
            with weights_only(), redirect_stdout(sys.stderr):
                network = timm.create_model(
                    f"{config.architecture}.{config.tag}" if config.tag else config.architecture,
                    pretrained=True,
                    # Otherwise timm asks the hub for news first, which takes most of a minute without a connection.
                    pretrained_cfg_overlay=None if cached is None else {"file": cached},
                )
        except Exception as error:  # Hub, network and file errors have no common base class.
            raise RequestError(
                f"the weights of timm:{name} cannot be had ({reason_of(error)}): get them from {_address(config)} "
                f"and give them with --weights FILE --architecture timm:{name}, or take random ones with "
                f"timm:{config.architecture}@{RANDOM}"
            ) from error
        return Trained(network, state_digest(network))


def _config(name: str, tag: str) -> Any:  # noqa: ANN401 (timm's own)
    return get_pretrained_cfg(name if tag in ("", RANDOM) else f"{name}.{tag}")


def _file_names(config: Any) -> tuple[str, ...]:  # noqa: ANN401
    return (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")


def _cached(config: Any) -> str | None:  # noqa: ANN401
    """The file in the hub's cache, if it is there."""
    names = _file_names(config) if config.hf_hub_id else ()
    found = (try_to_load_from_cache(config.hf_hub_id, name) for name in names)
    return next((file for file in found if isinstance(file, str)), None)


def _address(config: Any) -> str:  # noqa: ANN401
    if config.hf_hub_id:
        return f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{_file_names(config)[0]}"
    return str(config.url or "where they are published, which timm does not say")


def _reach(config: Any) -> None:  # noqa: ANN401
    """Fail in seconds, where the hub's client would take most of a minute."""
    # A server that answers is reachable, and may have the file under another name.
    with suppress(HTTPError):
        urlopen(Request(_address(config), method="HEAD"), timeout=PATIENCE).close()
