"""The adversarial images of a run, as they are handed over: arrays without loss, and pictures of those that succeed."""

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from robustbench_bcos.bench.adversarials import from_bytes, to_bytes
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.judge import measured_sizes
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.disk import made_below, slug, write_bytes, write_with
from robustbench_bcos.core.prediction import NO_CLASS
from robustbench_bcos.core.types import Flags, Images, Labels, PerImage
from robustbench_bcos.data.manifest import Manifest

FOLDER, ARRAYS, PICTURES = "adversarials", "adversarials.npz", "pictures"

SPLITS = ("train", "test", "val", "valid", "validation")
"""Names of folders that are no classes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AdversarialImages:
    """What a cell's attack made of each image, in the order of the evaluation subset.

    An image that was not attacked is its own adversarial example; that of a robust one is what the attack proposed.
    """

    cell: Cell
    images: Images
    """As they were attacked."""
    adversarials: Images
    """To the bit as they were judged."""
    labels: Labels
    predictions_before: Labels
    """Without an attack; -1 where a logit was not finite."""
    predictions_after: Labels
    """Of the adversarial examples, as the judge found them."""
    distances: PerImage
    """Norm of each perturbation, in float64."""
    success: Flags
    """Whether the attack met its criterion."""
    pictured: Flags
    """Whether a picture of 256 levels near the adversarial example, within the threat, succeeds, too."""
    predictions_pictured: Labels
    """Of those pictures, as the judge found them; -1 where there is none."""
    indices: Labels
    """Positions in the dataset."""


COLUMNS = tuple(column.name for column in fields(AdversarialImages) if column.name != "cell")
PIXELS = ("images", "adversarials")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """What is known of one image of a cell."""

    values: dict[str, Any]
    """By column."""
    picture: bytes | None


def adversarials_of(request: Request, store: Store, cell: Cell) -> AdversarialImages:
    """The adversarial images of a cell that is complete, all at once."""
    found = [one.values for one in _found(request, store, cell)]
    columns = {name: torch.stack([torch.as_tensor(values[name]) for values in found]) for name in COLUMNS}
    return AdversarialImages(cell=cell, **columns)


def save_adversarials(request: Request, store: Store, folder: Path) -> list[Path]:
    """Write the adversarial images of every cell below a folder: ``MODEL/THREAT-ATTACK/``.

    ``adversarials.npz`` has the columns of :class:`AdversarialImages`; ``pictures/CLASS/INDEX.png`` those pictures that
    succeed, which ``--dataset folder:`` reads back to the bit; ``METHOD-GOAL/CLASS/INDEX.png`` those of the same class
    whose explanation was attacked. What is there already is replaced.

    Returns:
        The folder of each cell.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    written = []
    for cell, place in _places(request.cells).items():
        home = made_below(folder, *place.split("/"))
        write_with(home / ARRAYS, partial(_write_arrays, request, store, cell))
        _write_pictures(request, store, cell, home)
        _write_fooled(request, store, cell, home)
        written.append(home)
    return written


def _found(request: Request, store: Store, cell: Cell, *, pixels: bool = True) -> Iterator[_Found]:
    """Each image of a cell, one after the other: all of them may not fit into memory."""
    clean, verdicts = store.clean(cell.model), {row.image: row for row in store.verdicts(cell)}
    cheaper = sorted(filter(cell.includes, request.cells), key=lambda other: other.effort)
    broken = {
        other: {row.image for row in store.verdicts(other) if row.success and not row.inherited} for other in cheaper
    }
    for place, index in enumerate(request.subset.indices):
        verdict = verdicts[index]
        # An example that is another cell's is that of the least effort.
        source = next((other for other in cheaper if index in broken[other]), cell) if verdict.inherited else cell
        row = store.adversarial(source, index) if verdict.attacked else None
        image = request.subset.batch(place, place + 1).images
        adversarial = image if row is None else from_bytes([row.pixels], image.shape[1:])
        values: dict[str, Any] = {
            "labels": clean[index].label,
            "predictions_before": clean[index].prediction,
            "predictions_after": verdict.prediction if verdict.attacked else clean[index].prediction,
            "distances": measured_sizes(cell.threat, image, adversarial)[0].item(),
            "success": verdict.success,
            "pictured": row is not None and row.rounded is not None,
            "predictions_pictured": NO_CLASS if row is None or row.rounded is None else row.rounded_prediction,
            "indices": index,
        }
        if pixels:
            values |= {"images": image[0], "adversarials": adversarial[0]}
        yield _Found(values=values, picture=None if row is None else row.rounded)


def _write_arrays(request: Request, store: Store, cell: Cell, stream: IO[bytes]) -> None:
    """A NumPy archive, image by image; the same bytes on every call."""
    rows = [one.values for one in _found(request, store, cell, pixels=False)]
    with zipfile.ZipFile(stream, "w") as archive:
        for name in COLUMNS:
            # A ZipInfo made of a name alone carries no date, so that equal arrays give equal bytes.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if name not in PIXELS:
                    np.save(member, np.array([row[name] for row in rows]))
                    continue
                shape = (len(rows), *request.subset.image_shape)
                np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for one in _found(request, store, cell):
                    member.write(to_bytes(one.values[name]))
        with archive.open("class_names.npy", "w") as member:
            np.save(member, np.array(request.subset.class_names))


def _write_pictures(request: Request, store: Store, cell: Cell, folder: Path) -> None:
    """Those pictures that succeed, by class, and what reads them back."""
    names = _class_folders(request.subset.class_names)
    for one in _found(request, store, cell):
        if one.picture is not None:
            home = made_below(folder, PICTURES, names[one.values["labels"]])
            write_bytes(home / f"{one.values['indices']}.png", _png(one.picture, request.subset.image_shape))
    if (folder / PICTURES).is_dir():
        Manifest(classes=names, adversarial=True).write(folder / PICTURES)


def _write_fooled(request: Request, store: Store, cell: Cell, folder: Path) -> None:
    """Pictures whose explanation was attacked, by method and goal, and what reads them back."""
    names = _class_folders(request.subset.class_names)
    for row in store.fooled_pictures(cell):
        place = f"{row.method}-{slug(row.goal)}"
        assert row.label is not None
        home = made_below(folder, place, names[row.label])
        write_bytes(home / f"{row.image}.png", _png(row.levels, request.subset.image_shape))
        Manifest(classes=names).write(folder / place)


def _png(levels: bytes, shape: Sequence[int]) -> bytes:
    """A picture from a byte for each pixel value."""
    pixels = np.frombuffer(levels, dtype=np.uint8).reshape(tuple(shape))
    content = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(content, format="PNG")
    return content.getvalue()


def _class_folders(class_names: Sequence[str]) -> tuple[str, ...]:
    """A folder's name for each class: its own where that is one, and no other's; else its number goes first."""
    folded = Counter(name.casefold() for name in class_names)
    return tuple(
        name if _is_a_name(name) and folded[name.casefold()] == 1 else f"{number}-{slug(name)}".rstrip("-")
        for number, name in enumerate(class_names)
    )


def _is_a_name(name: str) -> bool:
    """Whether a folder of images can be called so, and is taken for that class."""
    return slug(name) == name.replace(" ", "-") != "" and not name.startswith(".") and name not in SPLITS


def _places(cells: Iterable[Cell]) -> dict[Cell, str]:
    """A folder of its own for each cell: threat and attack, and what differs between cells of its options and aim."""
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(f"{slug(cell.model)}/{slug(f'{cell.threat} {cell.attack.name}')}", []).append(cell)
    places: dict[Cell, str] = {}
    for place, same in alike.items():
        options = [cell.attack.to_json() | {"criterion": cell.criterion} for cell in same]
        differing = [name for name in options[0] if len({str(other.get(name)) for other in options}) > 1]
        for cell, values in zip(same, options, strict=True):
            told = [slug(f"{'' if option == 'criterion' else option} {values.get(option)}") for option in differing]
            name = "-".join([place, *told])
            # Two models may differ in nothing that a folder's name can hold.
            places[cell] = f"{name}-{len(places)}" if name in places.values() else name
    return places
