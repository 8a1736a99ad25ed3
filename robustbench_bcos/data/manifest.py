"""What a folder of images that this package wrote says of itself, so that it is read back as it was written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_bcos.core.disk import write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import read_json

MANIFEST = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The classes of a folder of images that have the size a model takes: they are never resized again."""

    classes: tuple[str, ...]
    """Names of class folders, by number of the class; a class without images has no folder."""
    adversarial: bool = False
    """Whether the images were made to be misclassified: what a model says of them is no clean accuracy."""

    def write(self, folder: Path) -> Path:
        """Beside the class folders."""
        return write_text(folder / MANIFEST, json.dumps(self._content(), indent=2) + "\n")

    def _content(self) -> dict[str, Any]:
        return {"classes": self.classes, **({"adversarial": True} if self.adversarial else {})}

    def labels(self, folder: Path, found: Sequence[str]) -> dict[str, int]:
        """Class of each class folder that was found.

        Raises:
            RequestError: one is not among the classes.
        """
        numbers = {name: number for number, name in enumerate(self.classes)}
        for name in found:
            if name not in numbers:
                raise RequestError(
                    f"folder {folder / name} is none of the classes in {folder / MANIFEST}: take it out, or add its "
                    "name there"
                )
        return {name: numbers[name] for name in found}


def read_manifest(folder: Path) -> Manifest | None:
    """What a folder says of itself, or ``None`` where it says nothing.

    Raises:
        RequestError: it cannot be understood.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        content = read_json(file)
        classes, adversarial = content["classes"], content.get("adversarial", False)
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise TypeError("classes must be a list of names")
        if len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        if not isinstance(adversarial, bool):
            raise TypeError("adversarial must be true or false")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RequestError(
            f"{file} does not say which classes the folder has ({error}): write it as "
            '{"classes": ["name of class 0", ...]}, or take it out'
        ) from None
    return Manifest(classes=tuple(classes), adversarial=adversarial)
