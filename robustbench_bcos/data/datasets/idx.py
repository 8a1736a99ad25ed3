"""IDX files, as MNIST and its relatives are published (LeCun et al., 1998, http://yann.lecun.com/exdb/mnist)."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast, final

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.class_order import ClassOrder
from robustbench_bcos.data.dataset import AbstractNamedDataset, DatasetRequest, Split

if TYPE_CHECKING:
    import numpy as np
    import torch

SPLITS: dict[Split, tuple[str, ...]] = {"test": ("t10k", "test"), "train": ("train",)}
"""What names of files of a split have in them."""

UBYTE = 8
"""IDX's number for unsigned bytes."""

FORM = "give a folder with MNIST's four files, gzipped or not, or the file of images with that of its labels beside it"


@final
@DATASETS.registered("idx")
class Idx(AbstractNamedDataset):
    """One split: ``DIR/t10k-images-idx3-ubyte`` and ``DIR/t10k-labels-idx1-ubyte``, say. Bytes stay in memory."""

    argument = "PATH"
    takes_class_order = True
    channels = 1
    how_to_get = "idx:PATH is a folder of your own and cannot be fetched: run with --dataset idx:PATH"

    def __init__(self, path: Path, split: Split, class_order: ClassOrder | None = None) -> None:
        self.name = f"idx:{path}"
        images_file = path if path.is_file() else _images_of(path, split)
        labels_file = _labels_of(images_file)
        images, labels = _read(images_file, dimensions=3), _read(labels_file, dimensions=1)
        if len(images) != len(labels):
            raise RequestError(
                f"{images_file} has {len(images)} images and {labels_file} has {len(labels)} labels: give two files "
                "that belong together"
            )
        self._pixels = images
        self.labels = labels.tolist()
        count = 1 + max(self.labels, default=-1)
        self.class_names = class_order.names if class_order else tuple(map(str, range(count)))
        self.notes = (f"Images: those in {images_file.name}.",)

    @classmethod
    def locate(cls, request: DatasetRequest) -> None:
        """Whether there are two files."""
        path = Path(request.argument).expanduser()
        _labels_of(path if path.is_file() else _images_of(path, request.split))

    @classmethod
    def open(cls, request: DatasetRequest) -> "Idx":
        """The folder or file that the argument names."""
        return cls(Path(request.argument).expanduser(), request.split, request.class_order)

    def read(self, index: int) -> "torch.Tensor":
        """One image, (1, height, width)."""
        import torch

        return torch.from_numpy(self._pixels[index].copy())[None].float() / 255


def _images_of(folder: Path, split: Split) -> Path:
    """The file of a split's images in a folder, or where torchvision puts it."""
    if not folder.is_dir():
        raise RequestError(f"dataset idx:{folder} is not there: {FORM}")
    for place in (folder, folder / "raw", folder / "MNIST" / "raw"):
        found: dict[str, Path] = {}
        for file in sorted(place.glob("*images*idx3*")):
            if file.is_file() and any(part in file.name for part in SPLITS[split]):
                # Gzipped and unpacked, it is one file.
                found.setdefault(file.name.removesuffix(".gz"), file)
        if len(found) > 1:
            raise RequestError(
                f"dataset idx:{folder} has several files of {split} images ({', '.join(found)}): name one of them, as "
                f"in idx:{place / next(iter(found))}"
            )
        if found:
            return next(iter(found.values()))
    raise RequestError(
        f"dataset idx:{folder} has no file of {split} images such as {SPLITS[split][0]}-images-idx3-ubyte: {FORM}"
    )


def _labels_of(images: Path) -> Path:
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    plain = images.with_name(name.removesuffix(".gz"))
    for file in (images.with_name(name), plain, plain.with_name(f"{plain.name}.gz")):
        if file != images and file.is_file():
            return file
    raise RequestError(f"{images} has no file of labels beside it, {plain.name}: {FORM}")


def _read(file: Path, *, dimensions: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """The bytes of a file, in its shape. No more is unpacked than its header says."""
    import numpy as np

    try:
        with cast(BinaryIO, gzip.open(file) if file.suffix == ".gz" else file.open("rb")) as stream:
            zeros, kind, found = struct.unpack(">HBB", stream.read(4))
            if zeros or kind != UBYTE or found != dimensions:
                raise RequestError(
                    f"{file} is no IDX file of unsigned bytes with {dimensions} dimensions (it begins with "
                    f"{zeros}, {kind}, {found}): {FORM}"
                )
            shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
            content = stream.read(math.prod(shape) + 1)
    except (OSError, EOFError, struct.error, zlib.error, MemoryError, OverflowError) as error:
        raise RequestError(f"{file} is damaged or may not be read ({error}): get it again") from None
    if len(content) != math.prod(shape):
        least = "more" if len(content) > math.prod(shape) else f"{len(content)}"
        raise RequestError(f"{file} should hold {math.prod(shape)} bytes and holds {least}: get it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
