"""Models of other packages and files, ``PREFIX:NAME``: what can be told of a name without torch."""

import difflib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.packages import find_package
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.model_zoo import CLIP, ONNX

ROBUSTBENCH = "robustbench"

NEEDED = {
    "timm": (("timm",), "timm"),
    ROBUSTBENCH: (("robustbench",), "git+https://github.com/RobustBench/robustbench"),
    CLIP: (("open_clip",), "open_clip_torch"),
    ONNX: (("onnx", "onnx2torch", "onnxruntime"), "onnx onnx2torch onnxruntime"),
}
"""Packages that models come from, by prefix, and what pip calls them."""


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Where the files of a package name its models."""

    library: str
    """What a message calls it."""
    files: str
    """In the package's folder."""
    entry: str = ""
    """Finds the names in a file; by default a file is called as its model."""
    everything: str = ""
    """Where all are listed; by default the library says it."""


REGISTERED = r"^@register_model\b.*\n(?:@.*\n)*def (\w+)\("

SHELVES = {
    "torchvision": Shelf(library="torchvision.models", files="models/*.py", entry=REGISTERED),
    "timm": Shelf(library="timm", files="models/*.py", entry=REGISTERED),
    ROBUSTBENCH: Shelf(
        library="RobustBench",
        files="model_zoo/*.py",
        entry=r"^ +\('(\w+)', ",
        everything="https://robustbench.github.io has them all",
    ),
    CLIP: Shelf(library="open_clip", files="model_configs/*.json"),
}

DATASETS = ("cifar10", "cifar100", "imagenet")
THREATS = ("Linf", "L2", "corruptions", "corruptions_3d")


class Identity(NamedTuple):
    """Dataset, threat model and name of a model of RobustBench."""

    dataset: str
    threat: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "Identity":
        """``NAME``, of CIFAR-10 and Linf, or ``DATASET/THREAT/NAME``.

        Raises:
            RequestError: it is neither, or RobustBench has no such dataset or threat model.
        """
        parts = text.split("/")
        if len(parts) not in (1, 3) or not all(parts):
            raise RequestError(
                f"--model robustbench:{text} is no identity of a model: write robustbench:Carmon2019Unlabeled or "
                "robustbench:cifar10/Linf/Carmon2019Unlabeled, say"
            )
        found = cls(*parts) if len(parts) == 3 else cls(DATASETS[0], THREATS[0], text)
        if found.dataset not in DATASETS:
            raise unknown("dataset of RobustBench", found.dataset, DATASETS)
        if found.threat not in THREATS:
            raise unknown("threat of RobustBench", found.threat, THREATS)
        return found


def check_installed(prefix: str) -> None:
    """Refuse models of a package that is not there.

    Raises:
        RequestError: with what installs it.
    """
    packages, install = NEEDED.get(prefix, ((), ""))
    for package in packages:
        if find_package(package) is None:
            raise RequestError(
                f"{package}, which models of {prefix}:NAME come from, is not installed: pip install {install}"
            )


def check_foreign(prefix: str, name: str) -> None:
    """Refuse a model that cannot be, or whose package is not there.

    Args:
        prefix: of a library, ``onnx`` or ``clip``.
        name: what follows the colon.

    Raises:
        RequestError: there is no name behind the colon, or what loads such models refuses it.
    """
    if not name.partition("@")[0].strip():
        raise RequestError(f"model {f'{prefix}:{name}'!r} lacks a name: write {prefix}:NAME")
    if prefix == ROBUSTBENCH:
        Identity.parse(name)
    check_installed(prefix)
    if prefix in SHELVES:
        _check_shelf(prefix, name)
    if prefix == ONNX and not Path(name).is_file():
        raise RequestError(f"--model onnx:{name} is no file: check the path")


def not_listed(library: str, name: str, known: Iterable[str], everything: str = "") -> RequestError:
    """The error for a name that is not among ``known``, which are too many to list."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return RequestError(
        f"{library} has no classifier {name!r}: {hint}{everything or f'{library}.list_models() has them all'}"
    )


def names_in_files(prefix: str) -> list[str]:
    """The models that the files of an installed package name, which need not be all that it has."""
    shelf = SHELVES[prefix]
    return [name for text in _texts(prefix) for name in re.findall(shelf.entry or ".+", text, re.MULTILINE)]


def _check_shelf(prefix: str, name: str) -> None:
    """Refuse a name that no file of the package mentions: once imported, with torch, it knows its models itself."""
    model = Identity.parse(name).name if prefix == ROBUSTBENCH else re.split(r"[.@]", name)[0]
    mentioned = re.compile(rf"(?<!\w){re.escape(model)}(?!\w)")
    texts = () if _package(prefix) in sys.modules else _texts(prefix)
    if texts and not any(map(mentioned.search, texts)):
        raise not_listed(SHELVES[prefix].library, model, names_in_files(prefix), SHELVES[prefix].everything)


def _texts(prefix: str) -> list[str]:
    found, shelf = find_package(_package(prefix)), SHELVES[prefix]
    files = sorted(Path(found.origin).parent.glob(shelf.files)) if found and found.origin else []
    return [file.read_text(encoding="utf-8", errors="replace") if shelf.entry else file.stem for file in files]


def _package(prefix: str) -> str:
    return NEEDED[prefix][0][0] if prefix in NEEDED else prefix


def knows_no_texts(model: str) -> RequestError:
    """The error for texts that are given to a model whose classes are none."""
    return RequestError(
        f"model {model!r} knows no texts: leave them out, or choose a vision-language model, clip:NAME, or one whose "
        "card has texts"
    )
