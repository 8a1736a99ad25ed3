"""From a trained conventional classifier to a B-cos one, with the proof that the conversion changed nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_bcos.core.adapted import as_logits, copied, name_of, parted
from robustbench_bcos.core.errors import RequestError, named_reason_of
from robustbench_bcos.core.prediction import are_probabilities
from robustbench_bcos.core.types import AnyModel
from robustbench_bcos.model_zoo.bcos.exponents import LearnB
from robustbench_bcos.model_zoo.bcos.layers import BcosModule, LogitLayer, learn_exponents
from robustbench_bcos.model_zoo.bcosify.build import published_logit_bias
from robustbench_bcos.model_zoo.bcosify.convert import ConvertedLayer, check_convertible, convert_layers, settle
from robustbench_bcos.model_zoo.bcosify.image_layers import calls_with_image, find_image_layers, widen
from robustbench_bcos.model_zoo.bcosify.ledger import Account, account
from robustbench_bcos.model_zoo.bcosify.network import BcosifiedNetwork
from robustbench_bcos.model_zoo.bcosify.proof import BATCH, Proof, answers, prove
from robustbench_bcos.model_zoo.cards import BcosifiedSpec, Pools
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AbstractEncoding, AddInverse, parse_encoding
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork

SIX = 6
"""Channels of an encoding that has the complement of each."""

ACCOUNTED = 2
"""Images whose logits are accounted for."""

UNSTEADY = 1e-3
"""Differences of logits in single and double precision, relative to the largest, from which on a source is asked twice
whether it answers alike: rounding seldom reaches them, and dropout does."""


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """What became of a layer."""

    path: str
    source: str
    """Its class."""
    became: str
    """The class of its counterpart; empty where it stays as it is."""
    dropped: tuple[str, ...]
    """What is no longer part of it: biases, running means."""
    residual: float
    """Share of the largest logit, without the logit bias, that constants of it are, on average over some images."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How a network was converted."""

    spec: BcosifiedSpec
    proof: Proof
    layers: tuple[LayerChange, ...]
    """In the order of the network's modules; constants that no layer adds are rows of their own."""
    remainder: float
    """What of a logit, in parts of it, is neither a contribution of the image nor a constant of a layer: rounding."""
    faintest: float
    """Magnitude of an image's largest logit, without the logit bias and in double precision; the least of some."""

    @property
    def vanishes(self) -> bool:
        """Whether single precision does not hold that logit, so that there is no gradient to train with."""
        return self.faintest < torch.finfo(torch.float32).tiny


class BcosifiedClassifier(ImageClassifier):
    """A B-cos classifier that was made from a conventional one.

    Attributes:
        conversion: how.
    """

    def __init__(self, encoding: AbstractEncoding, network: BcosifiedNetwork, conversion: Conversion) -> None:
        super().__init__(encoding, network)
        self.conversion = conversion


def bcosify(
    model: AnyModel,
    *,
    images: Tensor,
    b: float = 2.0,
    learn_b: LearnB = "no",
    encoding: str | AbstractEncoding | None = None,
    biases: bool = False,
    max_pools: Pools = "kept",
    unpooled: bool = False,
    logit_bias: float | None = None,
    name: str = "",
) -> BcosifiedClassifier:
    """A B-cos network with the weights of a conventional one (Arya et al., 2024).

    Before B is changed and biases are dropped, the converted network must give the source's logits on ``images``, to
    1e-5 of the largest one in double precision. The source is left as it is.

    Args:
        model: from images in [0, 1] to logits, or a network behind the encoding that is stated.
        images: real ones in [0, 1], (image, channel, height, width).
        b: the exponent; with 1 and ``biases``, the source's logits.
        learn_b: let a training move it from there, above 1: ``layer``, one of each layer, or ``shared``.
        encoding: how images are prepared for a network: ``none``, ``normalize:imagenet``, ...; a classifier of this
            package has its own.
        biases: keep them, so that contributions do not sum to the logit. Otherwise they are dropped, as published.
        max_pools: ``averaged`` makes pools of means of them, as published for ResNets.
        unpooled: leave out the pool of attention of CLIP's ResNets, so that there is a feature for each place, and a
            logit is the mean over places.
        logit_bias: added to all logits; by default -ln(classes - 1) as published, and 0 where biases are kept or logits
            are cosines with texts.
        name: of the source, for the report.

    Returns:
        A frozen classifier; its ``conversion`` says what was done.

    Raises:
        RequestError: a layer cannot be converted, the images do not fit, the encoding is unknown, or logits differ.
    """
    source, prepared = _prepared(model, encoding)
    _check_images(images)
    if not b >= 1:
        raise RequestError(f"b must be at least 1, got {b}: choose 2 as published, or 1 for a linear layer")
    check_convertible(source)
    # Another network with the same memory, until it is known which of it is needed.
    network = freeze(copied(source, sharing=True))
    original = ImageClassifier(prepared, network)
    given = images.to(next(iter(network.parameters()), images).device, torch.float32)
    first = given[:BATCH]
    logits, calls = _first_logits(original, first)
    expected = answers(original, given, logits)
    if expected.rounding > UNSTEADY:
        _check_steady(original, first)
    shape = tuple(prepared(given[:1]).shape[1:])
    has_complement = prepared.channels == SIX
    places = [] if has_complement else find_image_layers(network, shape, calls)
    layers = dict(network.named_modules())
    for place in places:
        widen(layers[place.path], place, prepared)
    network, rows = convert_layers(network, 1.0)
    bcos = BcosifiedNetwork(network, LogitLayer())
    encoded = prepared if has_complement else AddInverse()
    proof = prove(expected, ImageClassifier(encoded, bcos), given, lambda: _unconverted(source, prepared, given))
    if logit_bias is None:
        plain = biases or isinstance(source, ZeroShotNetwork)
        logit_bias = 0.0 if plain else published_logit_bias(expected.single.shape[1])
    spec = BcosifiedSpec(
        weights="raw",
        source=name or name_of(source),
        b=b,
        learn_b=learn_b,
        biases=biases,
        max_pools=max_pools,
        unpooled=unpooled,
        logit_bias=logit_bias,
        channels=shape[0],
        image_layers=tuple(place.path for place in places),
    )
    dropped = {row.path: _dropped(row, biases) for row in rows}
    settle(network, rows, spec)
    for module in bcos.modules():
        if isinstance(module, BcosModule):
            module.b = b
    learn_exponents(bcos, learn_b)
    freeze(bcos)
    # Before the logit bias, beside which logits of a network that is not trained yet may be rounding.
    known = {row.module for row in rows if row.known}
    accounts = [account(bcos, one[None], known) for one in encoded(given[:ACCOUNTED])]
    if not any(found.contributions for found in accounts):
        _check_alive(_unconverted(source, prepared, given), first)
    bcos.logit_layer.bias = spec.logit_bias or None
    parted(bcos, source)
    conversion = Conversion(
        spec=spec,
        proof=proof,
        layers=_changes(rows, dropped, _residuals(accounts)),
        remainder=max(found.remainder for found in accounts),
        faintest=min(abs(found.logit) for found in accounts),
    )
    return freeze(BcosifiedClassifier(encoded, bcos, conversion))


def _prepared(model: AnyModel, encoding: str | AbstractEncoding | None) -> tuple[nn.Module, AbstractEncoding]:
    if not isinstance(model, nn.Module):
        raise RequestError(f"model must be a torch.nn.Module, got {type(model).__name__}: give the network itself")
    if isinstance(model, ImageClassifier):
        if encoding is not None:
            raise RequestError("encoding is that of a network alone, and this classifier has its own: leave it out")
        return model.network, model.encoding
    if encoding is None:
        raise RequestError(
            "encoding is needed, because a network does not say how images are prepared for it: none, "
            "normalize:imagenet, or with constants normalize:0.485,0.456,0.406/0.229,0.224,0.225"
        )
    return model, parse_encoding(encoding) if isinstance(encoding, str) else encoding


def _check_images(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise RequestError(
            f"images must be of shape (image, 1 or 3 channels, height, width), got {tuple(images.shape)}: give some "
            "real ones"
        )
    if not images.is_floating_point() or images.min() < 0 or images.max() > 1:
        raise RequestError("images must be real numbers in [0, 1]: divide them by 255, and do not normalise them")


def _first_logits(original: ImageClassifier, images: Tensor) -> tuple[Tensor, Mapping[str, int]]:
    """Logits of the source, which are to be those of the converted network, and calls of layers with the image."""
    try:
        with torch.no_grad(), calls_with_image(original.network, original.encoding(images)) as calls:
            logits = original(images)
    except Exception as error:
        raise RequestError(
            f"the network fails on images of shape {tuple(images.shape[1:])} ({named_reason_of(error)}): give images "
            "that fit it"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape[:1] != images.shape[:1] or logits.dim() != 2:
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RequestError(
            f"the network gives {what} for {len(images)} images: it must return a tensor with one logit per image and "
            "class, and nothing else"
        )
    as_logits(logits, len(images))
    if logits.shape[1] < 2:
        raise RequestError("the network gives one logit per image: it must give one for each of at least two classes")
    if not logits.isfinite().all():
        raise RequestError("the network gives NaN or infinite logits: check its weights")
    if are_probabilities(logits) or are_probabilities(logits.exp()):
        raise RequestError(
            "the network gives probabilities or their logarithms: give it without its softmax, which no contributions "
            "of an image sum to"
        )
    # Of a single image, contributions will tell.
    if len(images) > 1 and (logits == logits[0]).all():
        _check_alive(original, images)
    return logits, calls


def _check_alive(original: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        if torch.equal(original(images), original(1 - images)):
            raise RequestError(
                "the network answers every image alike, as one whose last layer has zeros for weights: load its weights"
            )


def _unconverted(source: nn.Module, encoding: AbstractEncoding, images: Tensor) -> ImageClassifier:
    """The conventional classifier once more, of which a copy is made on demand."""
    original = ImageClassifier(encoding, freeze(copied(source, sharing=True)))
    _check_steady(original, images[:BATCH])
    return original


def _check_steady(original: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        logits, again = original(images), original(images)
    if not torch.equal(logits, again):
        raise RequestError(
            "the network answers the same images differently in evaluation mode: a dropout in its forward needs "
            "training=self.training"
        )


def _dropped(row: ConvertedLayer, biases: bool) -> tuple[str, ...]:
    if biases:
        return ()
    return tuple(dict.fromkeys(name for _, name in row.biases)) + (("running_mean",) if row.means else ())


def _residuals(accounts: Sequence[Account]) -> dict[str, float]:
    """Shares of the logits by layer."""
    shares: dict[str, float] = {}
    for found in accounts:
        for path, part in found.residuals.items():
            name = path.removeprefix("layers.")
            shares[name] = shares.get(name, 0.0) + part / found.logit / len(accounts)
    return shares


def _changes(
    rows: Sequence[ConvertedLayer], dropped: dict[str, tuple[str, ...]], residuals: dict[str, float]
) -> tuple[LayerChange, ...]:
    left = dict(residuals)
    changes = []
    for row in rows:
        inner = [path for path in left if path == row.path or path.startswith(f"{row.path}.")]
        residual = sum((left.pop(path) for path in inner), 0.0)
        change = LayerChange(
            path=row.path, source=row.kind, became=row.became, dropped=dropped[row.path], residual=residual
        )
        changes.append(change)
    others = (LayerChange(path=path, source="", became="", dropped=(), residual=part) for path, part in left.items())
    return (*changes, *others)
