"""Loading a classifier from a weights file and the name of its architecture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, build_architecture
from robustbench_bcos.model_zoo.cards import EncodingSpec
from robustbench_bcos.model_zoo.checkpoints.assign import MisfitError, assign_weights
from robustbench_bcos.model_zoo.checkpoints.infer import infer_arguments
from robustbench_bcos.model_zoo.checkpoints.layouts import Checkpoint, decimals, normalizing, read_checkpoint
from robustbench_bcos.model_zoo.checkpoints.match import suggest_architecture
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import ENCODINGS, AbstractEncoding, Normalize, parse_encoding


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A frozen classifier, and what it was built from."""

    classifier: ImageClassifier
    classes: int
    encoding: EncodingSpec
    arguments: Mapping[str, Any]
    checkpoint: Checkpoint


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
        inferred = infer_arguments(architecture, checkpoint.tensors, dict(arguments))
        in_channels, classes = inferred.pop("in_channels"), inferred.pop("classes")
        chosen = _encoding(file, encoding, checkpoint.encoding, in_channels)
        network = build_architecture(architecture, in_channels=in_channels, classes=classes, arguments=inferred)
        assign_weights(network, checkpoint.tensors, file)
    except MisfitError as error:
        remedy = suggest_architecture(checkpoint.tensors, stated=architecture)
        raise RequestError(f"{error.finding}: {remedy}") from None
    classifier = freeze(ImageClassifier(ENCODINGS[chosen.kind](**chosen.constants), network))
    return LoadedCheckpoint(
        classifier=classifier, classes=classes, encoding=chosen, arguments=inferred, checkpoint=checkpoint
    )


def architecture_needed(file: Path, *, ema: bool = False) -> RequestError:
    """The error for a weights file whose architecture was not named, with the architectures that match.

    None is chosen automatically, because tensors do not determine B, nor whether a norm is centred.
    """
    suggestion = suggest_architecture(read_checkpoint(file, ema=ema).tensors)
    return RequestError(f"weights {file} need the architecture they were made with: {suggestion}")


def _encoding(file: Path, stated: str | None, found: EncodingSpec | None, in_channels: int) -> EncodingSpec:
    if stated is None:
        chosen = found or EncodingSpec(kind="add_inverse" if in_channels == 6 else "none")
    elif stated == "normalize" and found is not None:
        chosen = found
    else:
        chosen = encoding_spec(parse_encoding(stated))
    channels = ENCODINGS[chosen.kind].channels
    if channels != in_channels:
        raise RequestError(
            f"--encoding {chosen.kind} gives {channels} channels and the weights {file} take {in_channels}: choose the "
            "encoding they were trained with"
        )
    return chosen


def encoding_spec(encoding: AbstractEncoding) -> EncodingSpec:
    """An encoding as a card has it."""
    if isinstance(encoding, Normalize):
        return normalizing(decimals(encoding.mean), decimals(encoding.std))
    kind = next(name for name in ENCODINGS if ENCODINGS[name] is type(encoding))
    return EncodingSpec.model_validate({"kind": kind})
