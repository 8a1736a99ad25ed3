"""Writing a network's weights as safetensors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from robustbench_bcos.core.disk import write_bytes
from robustbench_bcos.model_zoo.bcos.layers import UnitConv2d, UnitLinear
from robustbench_bcos.model_zoo.bcos.raw import RAW, weights_of
from robustbench_bcos.model_zoo.checkpoints.kind import KIND
from robustbench_bcos.model_zoo.digests import sha256_of

FLOAT8 = torch.float8_e4m3fn
"""Four significant bits."""

LEAST = 1e-30
"""Largest number that a filter of zeros is taken to have."""

TOP = 7
"""The largest number of a filter in float8 is at least 2 to this power, where subnormal numbers are far below it."""


def round_filters(network: nn.Module) -> None:
    """Round filters of B-cos layers, whose length means nothing, to what float8 holds, in place.

    Each filter is first multiplied by a power of 2, so that its numbers are those that float8 holds best.
    """
    for layer in _unit_layers(network).values():
        filters = layer.weight.detach()
        largest = filters.abs().amax(dim=tuple(range(1, filters.dim())), keepdim=True).clamp(min=LEAST)
        scaled = filters * (TOP - largest.log2().floor()).exp2()
        layer.weight.data.copy_(scaled.to(FLOAT8))


def _unit_layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Layers that normalise their filters, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, UnitConv2d | UnitLinear)}


def write_weights(network: nn.Module, file: Path, *, half: bool = False, float8_filters: bool = False) -> str:
    """Save a network's state as safetensors and return the file's SHA-256.

    Args:
        network: whose state to save.
        file: where to.
        half: round to half precision.
        float8_filters: write filters of B-cos layers as float8, which :func:`round_filters` has made them.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    # Written here and not by safetensors, whose files no one else may read.
    content = serialised(network, half=half, float8_filters=float8_filters)
    return sha256_of(write_bytes(file, content))


def serialised(
    network: nn.Module, *, half: bool = False, float8_filters: bool = False, facts: Mapping[str, str] | None = None
) -> bytes:
    """A network's state as the content of a safetensors file.

    Args:
        network: whose state to save.
        half: round to half precision.
        float8_filters: as of :func:`write_weights`.
        facts: for the file's header, which says in any case if weights are raw ones.
    """
    # Copies, because an exponent that layers share is one tensor under several names, which safetensors does not take.
    state = {name: tensor.cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    if float8_filters:
        state |= {f"{name}.weight": state[f"{name}.weight"].to(FLOAT8) for name in _unit_layers(network)}
    said = dict(facts or {}) | ({KIND: RAW} if weights_of(network) == RAW else {})
    return bytes(save(state, said or None))
