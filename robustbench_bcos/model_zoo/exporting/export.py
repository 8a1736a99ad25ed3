"""Exports a model, and writes nothing unless what was exported answers as the model does."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustbench_bcos.core.disk import made, write_bytes
from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.types import Classifier, Images, Logits
from robustbench_bcos.core.version import VERSION
from robustbench_bcos.model_zoo.agreement import SAME, apart
from robustbench_bcos.model_zoo.bcos.layers import b_of
from robustbench_bcos.model_zoo.checkpoints.load import encoding_spec
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.exporting import FORMATS
from robustbench_bcos.model_zoo.sources.model import Model

EXAMPLE = 2
"""Images in the batch that a format may follow through the network: torch takes a batch of one for a constant."""


PACKAGE = Path(__file__).parents[2]

DECIDED = "to a Python boolean"
"""What torch says where code that is traced takes one of two ways."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How near the exported network is to the model."""

    difference: float
    """Largest difference of logits, as a part of their range."""
    images: int
    batch_sizes: tuple[int, ...]
    classes: int
    one_path: str
    """Where the model's code decided by values while it was traced, so that the file holds one path; or nothing."""


def export(model: Model, form: str, file: Path, images: Images) -> Agreement:
    """Write a model to a file of a format, if the file's network gives the model's logits.

    Both are shown the images, their mirror images, their negatives and darker ones, one by one and in batches of two
    sizes.

    Args:
        model: on the CPU.
        form: name of the format.
        file: to write, which must not exist.
        images: real ones of the kind that the model was made for.

    Raises:
        RequestError: the file exists, a package is missing, the model cannot be exported, or what was exported answers
            differently; nothing has been written.
    """
    FORMATS[form].check()
    if file.exists():
        raise RequestError(f"{file} is there already: choose another --out, or remove it")
    shown = torch.cat([images, images.flip(-1), 1 - images, images / 8])
    batches = [*shown.split(1), shown[:EXAMPLE], shown]
    expected = [_asked(model.classifier, batch) for batch in batches]
    again = max(map(apart, [_asked(model.classifier, batch) for batch in batches], expected))
    if not again <= SAME:
        raise RequestError(
            f"model {model.name!r} answers differently when it is asked again, so nothing can be its export: make it "
            "deterministic"
        )
    content, exported, one_path = _exported(model, form, shown[:EXAMPLE])
    difference = 0.0
    for batch, logits in zip(batches, expected, strict=True):
        difference = max(difference, _compared(model, form, exported, batch, logits))
    made(file.parent)
    write_bytes(file, content)
    return Agreement(
        difference=difference,
        images=len(shown),
        batch_sizes=(1, EXAMPLE, len(shown)),
        classes=expected[0].shape[1],
        one_path=one_path,
    )


def _exported(model: Model, form: str, example: Images) -> tuple[bytes, Classifier, str]:
    """The content of the file, the network that is read back from it, and where its code decided by values."""
    try:
        # Exporters warn of what they are themselves, too, and of what is checked here.
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            content = FORMATS[form].dump(model.classifier, example, facts_of(model))
            exported = FORMATS[form].load(content, model.classifier)
        # This package decides by shapes alone.
        decided = [one for one in told if DECIDED in str(one.message) and PACKAGE not in Path(one.filename).parents]
        lines = [f"{Path(one.filename).name}:{one.lineno}" for one in decided]
        return content, exported, ", ".join(dict.fromkeys(lines))
    except Exception as error:
        raise RequestError(
            f"model {model.name!r} cannot be written as {form} ({_root(error)}): choose another --format"
        ) from error


def _compared(model: Model, form: str, exported: Classifier, images: Images, expected: Logits) -> float:
    """The difference, if it is that of rounding."""
    said = f"model {model.name!r} as {form}"
    among = f"on a batch of {len(images)}"
    remedy = "nothing was written; choose another --format"
    try:
        logits = _asked(exported, images)
    except Exception as error:
        raise RequestError(f"{said} fails {among} ({_root(error)}): {remedy}") from error
    if logits.shape != expected.shape:
        raise RequestError(
            f"{said} gives outputs of shape {tuple(logits.shape)} {among}, and the model {tuple(expected.shape)}: "
            f"{remedy}"
        )
    difference = apart(logits, expected)
    if not difference <= SAME:
        off = float((logits - expected).abs().max())
        raise RequestError(
            f"{said} gives other logits than the model {among}, off by {off:.3g} on logits up to "
            f"{float(expected.abs().max()):.3g}: {remedy}"
        )
    return difference


def facts_of(model: Model) -> dict[str, str]:
    """What is kept in a file, so that a reader knows where it comes from, what it takes and how to build it."""
    classifier, b = model.classifier, b_of(model.classifier)
    facts = {
        "model": model.name,
        "architecture": model.architecture,
        "weights_sha256": model.weights_sha256,
        "exported_by": f"robustbench_bcos {VERSION}, torch {torch.__version__}",
    }
    arguments = dict(model.arguments)
    if isinstance(classifier, ImageClassifier):
        facts["encoding"] = encoding_spec(classifier.encoding).text
    if b is not None:
        facts["b"] = str(b)
        arguments.setdefault("b", b)
    return facts | ({"arguments": json.dumps(arguments, sort_keys=True)} if arguments else {})


@torch.no_grad()
def _asked(classifier: Classifier, images: Images) -> Tensor:
    return classifier(images).detach()


def _root(error: BaseException) -> str:
    """What went wrong at first: exporters wrap it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason_of(error).partition(". ")[0].rstrip(".")
