"""Folders of classes as they lie on disks: among folders of splits, hidden ones, and files that are no images."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.dataset import Split
from robustbench_bcos.data.decoding import FORMATS, is_image

SPLITS: dict[Split, tuple[str, ...]] = {
    "test": ("test", "testing", "val", "valid", "validation", "eval", "evaluation", "dev"),
    "train": ("train", "training"),
}
"""What folders of splits are called, in lower case; the first that holds class folders is taken."""

NAMES_OF_SPLITS = frozenset(name for names in SPLITS.values() for name in names)

LITTER = ("__MACOSX", "@eaDir", "lost+found")
"""Folders that systems leave beside others, where they are not hidden."""

NAMED = 3
"""Files that a note has room for."""


class ImageFiles(NamedTuple):
    """The files of a class folder."""

    images: list[Path]
    """In the order of torchvision's ImageFolder."""
    hidden: list[Path]
    others: list[Path]
    """What holds no image of a format that is read."""


def find_split(root: Path, split: Split, *, order: Sequence[str] = (), asked: Collection[str] = ()) -> Path | None:
    """The folder of a split in a dataset's folder; ``None`` if there is none that holds folders.

    Args:
        root: of the dataset, which must be a folder.
        split: which is asked for.
        order: what its folder may be called, the most wanted first; by default as in :data:`SPLITS`.
        asked: classes that are called as splits are.
    """
    there = {name.lower(): root / name for name in _folders(root) if name not in asked}
    for name in order or SPLITS[split]:
        if name in there and _folders(there[name]):
            return there[name]
    return None


def find_classes(folder: Path, dataset: str, asked: Collection[str] = ()) -> list[str]:
    """Names of the class folders in a folder, sorted.

    Args:
        folder: what holds them.
        dataset: what messages call it.
        asked: classes that are called as splits are.

    Raises:
        RequestError: there are none, or one is called as a split is.
    """
    names = _folders(folder)
    splits = [name for name in names if name.lower() in NAMES_OF_SPLITS and name not in asked]
    if splits:
        raise RequestError(
            f"dataset {dataset} holds the folder {splits[0]}, which is called as a split and not as a class is: give "
            f"the folder that holds the class folders, {folder / splits[0]} perhaps, or name {splits[0]} as a class in "
            "a list of classes"
        )
    if not names:
        raise RequestError(
            f"dataset {dataset} holds no images in class folders: it needs one folder of images per class, in DIR/test "
            "or in DIR itself"
        )
    return names


def find_images(folder: Path, asked: Collection[str] = ()) -> ImageFiles:
    """All files of a class folder and the folders in it.

    Raises:
        RequestError: it holds a folder of a split.
    """
    found = ImageFiles([], [], [])
    for name in _folders(folder):
        if name.lower() in NAMES_OF_SPLITS and name not in asked:
            raise RequestError(
                f"class folder {folder} holds the folder {name} of a split, and images of all splits would be mixed: "
                f"give {folder} as the folder of the dataset, or lay them out as DIR/test/CLASS/*"
            )
    for place, folders, files in sorted(os.walk(folder, followlinks=True)):
        del folders
        outside = any(_is_litter(part) for part in Path(place).relative_to(folder).parts)
        for file in (Path(place, name) for name in sorted(files)):
            if outside or _is_litter(file.name):
                found.hidden.append(file)
            else:
                (found.images if is_image(file) else found.others).append(file)
    return found


def images_if_fewer(folder: Path, wanted: int) -> int | None:
    """How many images class folders hold; ``None`` where there are as many files as are wanted, which are not opened.

    Raises:
        RequestError: one holds a folder of a split.
    """
    files = 0
    for _, _, names in os.walk(folder, followlinks=True):
        files += len(names)
        if files >= wanted:
            return None
    return sum(len(find_images(folder / name).images) for name in _folders(folder))


def notes_of_left_out(folder: Path, found: Collection[ImageFiles]) -> Iterator[str]:
    """What lies in a folder of class folders and is not used, and why; nothing where all is."""
    litter = [Path(entry.name) for entry in _entries(folder) if _is_litter(entry.name) and entry.is_dir()]
    beside = [Path(entry.name) for entry in _entries(folder) if entry.is_file() and is_image(Path(entry.path))]
    hidden = [file.relative_to(folder) for files in found for file in files.hidden]
    others = [file.relative_to(folder) for files in found for file in files.others]
    reasons = {
        "hidden or a system's": litter + hidden,
        "in none of the class folders": beside,
        f"no image of the formats {', '.join(FORMATS)}": others,
    }
    for reason, files in reasons.items():
        if files:
            names = ", ".join([*map(str, files[:NAMED]), *(["..."] if len(files) > NAMED else [])])
            yield f"Left out: {len(files)} that {'is' if len(files) == 1 else 'are'} {reason} ({names})."


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir() and not _is_litter(entry.name))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise RequestError(f"{folder} cannot be listed ({error.strerror}): give a folder that may be read") from None


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER
