"""CIFAR-10 (Krizhevsky, 2009) from its original python batches."""

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from robustbench_bcos.core.disk import held, no_link
from robustbench_bcos.core.download import Report, discard, download
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import AbstractNamedDataset, DatasetRequest, Split

if TYPE_CHECKING:
    import torch


@final
@DATASETS.registered("cifar10")
class Cifar10(AbstractNamedDataset):
    """One split. The batches are pickles: torchvision opens them only after it has checked their digests.

    Its radii are those of RobustBench (Croce et al., 2021, https://arxiv.org/abs/2010.09670, section 3).
    """

    radii = MappingProxyType({"linf": "8/255", "l2": "0.5"})
    data_dir_holds = "cifar-10-batches-py"
    image_shape = (3, 32, 32)
    test_images = 10_000
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"

    def __init__(self, root: Path, split: Split, *, download: bool) -> None:
        import torch
        from torchvision.datasets import CIFAR10

        self.name = "cifar10"
        try:
            batches = CIFAR10(str(root), train=split == "train", download=download)
        except (OSError, RuntimeError) as error:
            raise _not_there(root, str(error)) from None
        self.labels = list(batches.targets)
        self.class_names = tuple(batches.classes)
        self._pixels = torch.from_numpy(batches.data).permute(0, 3, 1, 2)

    @classmethod
    def locate(cls, request: DatasetRequest) -> None:
        """Whether the folder is there at all; torchvision looks into its files."""
        if not (request.download or (request.data_dir / cls.data_dir_holds).is_dir()):
            raise _not_there(request.data_dir, "Dataset not found or corrupted.")

    @classmethod
    def open(cls, request: DatasetRequest) -> "Cifar10":
        """From ``--data-dir``, where ``--download`` puts them."""
        return cls(request.data_dir, request.split, download=request.download)

    def read(self, index: int) -> "torch.Tensor":
        """One image."""
        return self._pixels[index].float() / 255

    @classmethod
    def fetch(cls, data_dir: Path, report: Report, waiting: Callable[[], None]) -> Path:
        """The original archive, unpacked; torchvision checks the digests of the batches."""
        from torchvision.datasets import CIFAR10
        from torchvision.datasets.utils import check_integrity

        archive = Path(data_dir, CIFAR10.filename)
        with held(archive.with_name(f"{archive.name}.lock"), waiting=waiting):
            try:
                CIFAR10(str(data_dir), train=False)
            except RuntimeError:
                if not check_integrity(str(archive), CIFAR10.tgz_md5):
                    partial = download(cls.url, archive, report)
                    if not check_integrity(str(partial), CIFAR10.tgz_md5):
                        discard(partial)
                        raise RequestError(
                            f"{cls.url} has not the published MD5 {CIFAR10.tgz_md5}: nothing is kept; try again later"
                        ) from None
                    partial.replace(archive)
                    discard(partial)
                _unpack(data_dir)
        return Path(data_dir, CIFAR10.base_folder)


def _not_there(root: Path, reason: str) -> RequestError:
    return RequestError(
        f"dataset cifar10 is not in data_dir {root} ({reason}): point data_dir at the folder that holds "
        "cifar-10-batches-py, or set download"
    )


def _unpack(root: Path) -> None:
    from torchvision.datasets import CIFAR10

    # What unpacks an archive follows links.
    folder = no_link(root / CIFAR10.base_folder)
    for file in folder.glob("*"):
        no_link(file)
    try:
        CIFAR10(str(root), train=False, download=True)
    except (OSError, RuntimeError) as error:
        raise RequestError(f"the archive cannot be unpacked in {root} ({error}): choose another data_dir") from None
