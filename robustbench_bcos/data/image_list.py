"""Text files that name some images of a dataset, one a line: ``n01440764/ILSVRC2012_val_00000293.JPEG``.

The form is that of RobustBench's list of 5,000 ImageNet images; the class folder may be left out.
"""

from collections.abc import Sequence
from pathlib import Path

from robustbench_bcos.core.disk import no_pipe
from robustbench_bcos.core.errors import RequestError


def choose_listed(file: Path, paths: Sequence[str]) -> list[int]:
    """Positions of the listed images, in the dataset's order and not the list's.

    Args:
        file: the list.
        paths: of all images, from the folder that holds the class folders on, with forward slashes.

    Raises:
        RequestError: the list cannot be read, names no image, one that is not there, several by one name, or one twice.
    """
    positions_of: dict[str, list[int]] = {}
    for position, path in enumerate(paths):
        for name in {path, path.rpartition("/")[2]}:
            positions_of.setdefault(name, []).append(position)
    chosen: dict[int, int] = {}
    for number, name in read_image_list(file):
        positions = positions_of.get(name, [])
        where = f"line {number} of image_list {file}"
        if not positions:
            example = f" such as {paths[0]}" if paths else ""
            raise RequestError(
                f"{where} names {name!r}, which is not among the {len(paths)} images{example}: correct it"
            )
        if len(positions) > 1:
            first, second = (paths[position] for position in positions[:2])
            raise RequestError(
                f"{where} names {name!r}, which is both {first} and {second}: write the class folder too"
            )
        if positions[0] in chosen:
            raise RequestError(f"{where} names {name!r} again, after line {chosen[positions[0]]}: take one of them out")
        chosen[positions[0]] = number
    return sorted(chosen)


def read_image_list(file: Path) -> list[tuple[int, str]]:
    """Lines that hold something, with their numbers.

    Raises:
        RequestError: the file cannot be read, or holds nothing.
    """
    try:
        text = no_pipe(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise RequestError(
            f"image_list {file} cannot be read ({reason}): give a text file with an image per line"
        ) from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise RequestError(f"image_list {file} is empty: name one image per line, or leave it out")
    return lines
