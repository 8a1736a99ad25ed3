"""The layers that take the image itself, and what they become when it comes with its complement.

Whatever a network does to its image before its first product, cut it into patches, flatten it or put it through a
permutation, is found out by handing it an image whose values are all different.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.encodings import AbstractEncoding, Normalize

Layer = nn.Conv2d | nn.Linear

GLANCE = 1000
"""Values of a layer's input that are looked at before all of them."""


@dataclass(frozen=True, kw_only=True)
class ImageLayer:
    """A layer that takes the image, and which value of the image each of its inputs is, at one place of its output."""

    path: str
    plain: Tensor
    """(channel of the image, position) of each input of the source's layer."""
    paired: Tensor
    """The same of its counterpart, whose image has the complement of each channel behind its channels."""


@contextmanager
def calls_with_image(network: nn.Module, encoded: Tensor) -> Iterator[Mapping[str, int]]:
    """How often each layer is called inside the ``with`` that may take the image, as a glance at its inputs says.

    Args:
        network: the source's, in evaluation mode.
        encoded: the images that it is given there.
    """
    values = encoded.flatten().sort().values
    counts, calls = Counter[str](), Counter[str]()
    handles = []

    def note(path: str) -> Any:  # noqa: ANN401
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            counts[path] += 1
            part = _glance(args[0].detach())
            nearest = values[torch.searchsorted(values, part).clamp(max=len(values) - 1)]
            if path in calls or ((part == nearest) | (part == 0)).all():
                calls[path] = counts[path]

        return hook

    for path, layer in _layers(network).items():
        handles.append(layer.register_forward_pre_hook(note(path)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def find_image_layers(network: nn.Module, shape: tuple[int, ...], calls: Mapping[str, int]) -> list[ImageLayer]:
    """Layers that take the image.

    Args:
        network: the source's, in evaluation mode.
        shape: channels, height and width of its image.
        calls: of all layers that may, as :func:`calls_with_image` counted them.

    Raises:
        RequestError: there are none, because the network computes with the image first; or one cannot be paired.
    """
    channels, height, width = shape
    layers = {path: layer for path, layer in _layers(network).items() if path in calls}
    plain = _inputs(network, layers, _numbered(shape), {}, calls) if calls else {}
    count = channels * height * width
    found = {path: given for path, given in plain.items() if any(_is_image(part, count) for part in given)}
    for path, given in found.items():
        if not all(_is_image(part, count) for part in given):
            raise RequestError(
                f"layer {path} takes the image and, called again, something else: give the image a layer of its own"
            )
    if not found:
        raise RequestError(
            "the network computes with the image before its first layer, as normalising it does: take that out of the "
            "network and state it as the encoding, such as normalize:imagenet"
        )
    first = {path: given[0] for path, given in found.items()}
    wide = _numbered((2 * channels, height, width))
    paired = _inputs(network, {path: layers[path] for path in found}, wide, first, dict.fromkeys(found, 1))
    return [_paired(path, layers[path], first[path], paired[path][0], height * width) for path in found]


def widen(layer: Layer, place: ImageLayer, encoding: AbstractEncoding) -> None:
    """Let a layer take [x, 1-x] where it took the encoded image, with the same responses.

    With the encoding (x-m)/s, w(x-m)/s = w(1-m)/s x - wm/s (1-x), at every border, since what is padded is 0.
    """
    mean, deviation = _constants(encoding, 1 + int(place.plain[0].max()))
    channels, _ = place.paired
    is_complement = channels >= len(mean)
    channel = torch.where(is_complement, channels - len(mean), channels)
    known = {pair: number for number, pair in enumerate(map(tuple, place.plain.T.tolist()))}
    sources = [known[pair] for pair in zip(channel.tolist(), place.paired[1].tolist(), strict=True)]
    factor = torch.where(is_complement, -mean[channel], 1 - mean[channel]) / deviation[channel]
    with torch.no_grad():
        weight = layer.weight.double()[:, sources] * factor.to(layer.weight.device).view(
            1, -1, *[1] * (layer.weight.dim() - 2)
        )
        replace_weight(layer, weight.to(layer.weight.dtype))


def replace_weight(layer: Layer, weight: Tensor) -> None:
    """Give a layer a weight with another number of inputs."""
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    setattr(layer, "in_channels" if isinstance(layer, nn.Conv2d) else "in_features", weight.shape[1])


def _layers(network: nn.Module) -> dict[str, Layer]:
    return {path: module for path, module in network.named_modules() if isinstance(module, Layer)}


def _numbered(shape: tuple[int, ...]) -> Tensor:
    """An image whose values are 1, 2, 3, ...; single precision holds these exactly, and a padded 0 is none of them."""
    count = shape[0] * shape[1] * shape[2]
    return torch.arange(1, count + 1, dtype=torch.float32).view(1, *shape)


class _AllAsked(Exception):
    """All layers that are of interest have been asked, and what the network does next is not."""


def _inputs(
    network: nn.Module, layers: dict[str, Layer], image: Tensor, instead: dict[str, Tensor], calls: Mapping[str, int]
) -> dict[str, list[Tensor]]:
    """What each layer is given in turn; ``instead``, by layer, is what it then works on, until all calls are made."""
    given: dict[str, list[Tensor]] = {}
    handles = []

    def record(path: str) -> Any:  # noqa: ANN401
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            given.setdefault(path, []).append(args[0].detach().clone())
            if all(len(given.get(asked, ())) >= count for asked, count in calls.items()):
                raise _AllAsked
            return (instead[path], *args[1:]) if path in instead else None

        return hook

    for path, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(record(path)))
    like = next((parameter for parameter in network.parameters() if parameter.is_floating_point()), image)
    try:
        with torch.no_grad(), suppress(_AllAsked):
            network(image.to(like))
    except Exception as error:
        raise RequestError(
            f"the network fails on an image of {image.shape[1]} channels in the shape {tuple(image.shape[2:])} "
            f"({type(error).__name__}: {error}): its first layers must take the image, and nothing else may"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return given


def _is_image(values: Tensor, count: int) -> bool:
    """Whether values are numbers of an image's values, and zeros that were padded."""
    plain = values.flatten()
    # Of all the layers few take the image, and one value tells.
    part = _glance(plain)
    if not ((part == part.round()) & (part >= 0) & (part <= count)).all():
        return False
    numbers = plain[plain != 0]
    if numbers.numel() * 2 < plain.numel() or numbers.numel() == 0:
        return False
    return bool(((numbers == numbers.round()) & (numbers >= 1) & (numbers <= count)).all())


def _glance(values: Tensor) -> Tensor:
    """Some of the values."""
    plain = values.flatten()
    return plain[:: max(1, plain.numel() // GLANCE)].contiguous()


def _paired(path: str, layer: Layer, plain: Tensor, paired: Tensor, area: int) -> ImageLayer:
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise RequestError(f"layer {path} takes the image in {layer.groups} groups: only one group can be converted")
    rows = _inputs_at_places(layer, plain), _inputs_at_places(layer, paired)
    whole = (rows[0] > 0).all(dim=1) & (rows[1] > 0).all(dim=1)
    if rows[1].shape[1] != 2 * rows[0].shape[1] or not whole.any():
        raise RequestError(
            f"layer {path} does not take {2 * rows[0].shape[1]} inputs where the image has twice as many channels: "
            "the network must treat all channels alike before its first layer"
        )
    place = int(whole.nonzero()[0])
    numbers = [row[place].long().cpu() - 1 for row in rows]
    return ImageLayer(
        path=path,
        plain=torch.stack([numbers[0] // area, numbers[0] % area]),
        paired=torch.stack([numbers[1] // area, numbers[1] % area]),
    )


def _inputs_at_places(layer: Layer, values: Tensor) -> Tensor:
    """The inputs at each place, (place, input)."""
    if isinstance(layer, nn.Conv2d):
        return values.movedim(1, -1).flatten(0, -2)
    return values.flatten(0, -2) if values.dim() > 1 else values[None]


def _constants(encoding: AbstractEncoding, channels: int) -> tuple[Tensor, Tensor]:
    if not isinstance(encoding, Normalize):
        return torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
    mean, std = (constants.double().flatten().cpu()[:channels] for constants in (encoding.mean, encoding.std))
    return mean, std
