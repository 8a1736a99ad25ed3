"""Loading a classifier from a weights file and the name of its architecture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, build_architecture
from robustbench_bcos.model_zoo.bcos.layers import WithB, b_of
from robustbench_bcos.model_zoo.cards import EncodingSpec
from robustbench_bcos.model_zoo.checkpoints.assign import MisfitError, assign_weights
from robustbench_bcos.model_zoo.checkpoints.infer import infer_arguments
from robustbench_bcos.model_zoo.checkpoints.kind import check_kind
from robustbench_bcos.model_zoo.checkpoints.layouts import Checkpoint, decimals, normalizing, read_checkpoint
from robustbench_bcos.model_zoo.checkpoints.match import suggest_architecture
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import ENCODINGS, AbstractEncoding, Normalize, parse_encoding

EXPONENTS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)
"""Values of B that networks are trained with."""

UNCENTRED = "-uncentred"


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A frozen classifier, and what it was built from."""

    classifier: ImageClassifier
    classes: int
    encoding: EncodingSpec
    arguments: Mapping[str, Any]
    checkpoint: Checkpoint
    assumed: Mapping[str, str]
    """What neither the file nor the caller says, by argument: B, whether norms are centred, strides, the encoding."""
    alternatives: Mapping[str, Callable[[], nn.Module]]
    """The same weights with another value of one of these, by what to state for it."""


def load_checkpoint(
    file: Path, architecture: str, *, encoding: str | None, arguments: Mapping[str, Any], ema: bool
) -> LoadedCheckpoint:
    """Read the tensors, infer the architecture's arguments, and load strictly.

    Args:
        file: the weights.
        architecture: name of their architecture.
        encoding: as written on the command line; by default the normaliser that the file has, or ``add_inverse`` for
            six input channels and ``none`` for three.
        arguments: of the architecture, in place of inferred ones.
        ema: take the moving average of the weights.

    Raises:
        RequestError: the file, or what was stated, does not fit; architectures that match are named.
    """
    if architecture not in ARCHITECTURES:
        raise unknown("architecture", architecture, ARCHITECTURES)
    checkpoint = read_checkpoint(file, ema=ema)
    try:
        known = ARCHITECTURES[architecture]
        tensors = known.rename(checkpoint.tensors)
        inferred = infer_arguments(architecture, tensors, dict(arguments))
        in_channels, classes = inferred.pop("in_channels"), inferred.pop("classes")
        chosen = _encoding(file, encoding, checkpoint.encoding or known.encoding, in_channels)

        build = partial(build_architecture, architecture, in_channels=in_channels, classes=classes)
        network = build(arguments=inferred)
        check_kind(network, file)
        assign_weights(network, tensors, file)
        classifier = freeze(ImageClassifier(ENCODINGS[chosen.kind](**chosen.constants), network))
    except MisfitError as error:
        remedy = suggest_architecture(checkpoint.tensors, stated=architecture)
        raise RequestError(f"{error.finding}: {remedy}") from None
    assumed = _assumed(architecture, classifier, inferred, arguments)
    alternatives: dict[str, Callable[[], nn.Module]] = {}
    if "b" in assumed:
        others = [b for b in EXPONENTS if b != b_of(classifier)]
        alternatives |= {f"--argument b={b:g}": partial(WithB, classifier, b) for b in others}
    if "norm" in assumed:
        other = _other_centre(assumed["norm"])
        alternatives[f"--argument norm={other}"] = partial(
            _rebuilt, classifier, partial(build, arguments=inferred | {"norm": other})
        )
    if encoding is None and checkpoint.encoding is None:
        assumed["encoding"] = chosen.kind
    return LoadedCheckpoint(
        classifier=classifier,
        classes=classes,
        encoding=chosen,
        arguments=inferred,
        checkpoint=checkpoint,
        assumed=assumed,
        alternatives=alternatives,
    )


def _assumed(
    architecture: str, classifier: nn.Module, inferred: Mapping[str, Any], stated: Mapping[str, Any]
) -> dict[str, str]:
    """What tensors of these names and shapes do not determine and nobody stated."""
    known = ARCHITECTURES[architecture]
    assumed = {"strides": architecture}
    b = b_of(classifier)
    learned = inferred.get("learn_b", "no") != "no"
    if "b" in known.arguments and "b" not in stated and b is not None and not learned:
        assumed["b"] = f"{b:g}"
    # Centred and uncentred norms of B-cos networks have the same tensors.
    if known.family == "bcos" and "norm" not in stated and inferred.get("norm", "none") != "none":
        assumed["norm"] = inferred["norm"]
    return assumed


def _rebuilt(classifier: ImageClassifier, build: Callable[[], nn.Module]) -> ImageClassifier:
    """Another network with the weights that the classifier has now."""
    network = build()
    network.load_state_dict(classifier.network.state_dict())
    return freeze(ImageClassifier(classifier.encoding, network))


def _other_centre(norm: str) -> str:
    return norm.removesuffix(UNCENTRED) if norm.endswith(UNCENTRED) else f"{norm}{UNCENTRED}"


def architecture_needed(file: Path, *, ema: bool = False) -> RequestError:
    """The error for a weights file whose architecture was not named, with the architectures that match.

    None is chosen automatically, because tensors do not determine B, nor whether a norm is centred.
    """
    suggestion = suggest_architecture(read_checkpoint(file, ema=ema).tensors)
    return RequestError(f"weights {file} need the architecture they were made with: {suggestion}")


def _encoding(file: Path, stated: str | None, found: EncodingSpec | None, in_channels: int) -> EncodingSpec:
    if stated is None:
        chosen = found or EncodingSpec(kind="add_inverse" if in_channels in (2, 6) else "none")
    elif stated == "normalize" and found is not None:
        chosen = found
    else:
        chosen = encoding_spec(parse_encoding(stated))
    channels = ENCODINGS[chosen.kind].channels
    if in_channels not in (channels, channels // 3):
        raise RequestError(
            f"--encoding {chosen.kind} gives {channels} channels and the weights {file} take {in_channels}: choose the "
            "encoding they were trained with"
        )
    return chosen


def encoding_spec(encoding: AbstractEncoding) -> EncodingSpec:
    """An encoding as a card has it."""
    if type(encoding) is Normalize:
        return normalizing(decimals(encoding.mean), decimals(encoding.std))
    kind = next(name for name in ENCODINGS if ENCODINGS[name] is type(encoding))
    constants = {}
    if isinstance(encoding, Normalize):
        constants = {"mean": decimals(encoding.mean), "std": decimals(encoding.std)}
    return EncodingSpec.model_validate({"kind": kind, **constants})
