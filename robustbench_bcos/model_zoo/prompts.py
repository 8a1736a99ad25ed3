"""Texts that images are compared with: names of classes, put into templates. Importing this does not import torch."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_bcos.core.disk import no_pipe
from robustbench_bcos.core.errors import RequestError

PLACE = "{}"
"""Where a template has the name of the class."""

PLAIN = "plain"
PUBLISHED = "openai"
"""The 80 templates of Radford et al., 2021, which open_clip has."""

ONE = ("a photo of a {}.",)
"""The template of Radford et al., 2021, 3.1.4."""


@dataclass(frozen=True)
class Prompts:
    """Texts of each class, in the order of the outputs."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise RequestError(
                f"there are too few texts, {len(self.classes)}: an image is compared with at least two, give more"
            )
        if blank := [index for index, name in enumerate(self.classes) if not name.strip()]:
            raise RequestError(f"text {blank[0]} is empty: say what is to be compared with images")
        if not self.templates:
            raise RequestError(f"there is no template: give at least one, such as {ONE[0]!r}")
        for template in self.templates:
            if template.count(PLACE) != 1:
                raise RequestError(
                    f"template {template!r} must have one place for the name of the class, {PLACE}: {ONE[0]!r}, say"
                )

    @property
    def of_classes(self) -> list[list[str]]:
        """The texts, by class and template."""
        return [[template.replace(PLACE, name) for template in self.templates] for name in self.classes]

    def __str__(self) -> str:
        """How many there are, and a digest of all, as a row has it."""
        digest = hashlib.sha256(json.dumps(self.of_classes).encode()).hexdigest()
        return f"{len(self.classes)} classes in {len(self.templates)} templates, {digest[:12]}"


def read_templates(asked: str | Sequence[str]) -> tuple[str, ...]:
    """Templates by name or from a file with one a line; several are taken as they are.

    Raises:
        RequestError: there is no such file, or open_clip is not installed.
    """
    if not isinstance(asked, str):
        return tuple(asked)
    if asked == PLAIN:
        return ONE
    if asked == PUBLISHED:
        return _published()
    try:
        lines = no_pipe(Path(asked)).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"templates {asked!r} cannot be read ({error}): give {PLAIN}, {PUBLISHED}, or a text file with a template "
            f"a line, such as {ONE[0]!r}"
        ) from None
    return tuple(line.strip() for line in lines if line.strip())


def _published() -> tuple[str, ...]:
    from robustbench_bcos.model_zoo.sources.clip import open_clip

    return tuple(template(PLACE) for template in open_clip().OPENAI_IMAGENET_TEMPLATES)
