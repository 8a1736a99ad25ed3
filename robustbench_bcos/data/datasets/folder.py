"""Image folders: ``DIR/test/CLASS/*`` or ``DIR/CLASS/*``, any format that Pillow reads without running it."""

from pathlib import Path
from typing import final

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import DatasetRequest, Split
from robustbench_bcos.data.file_dataset import AbstractFileDataset
from robustbench_bcos.data.manifest import read_manifest
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing


@final
@DATASETS.registered("folder")
class Folder(AbstractFileDataset):
    """A folder of classes, which are named and numbered by its sub-folders in order, or by its ``dataset.json``."""

    argument = "DIR"
    how_to_get = "folder:DIR is a folder of your own and cannot be fetched: run with --dataset folder:DIR"

    def __init__(
        self,
        root: Path,
        split: Split,
        *,
        preprocessing: Preprocessing = AS_THEY_ARE,
        image_list: Path | None = None,
    ) -> None:
        from torchvision.datasets.folder import find_classes

        self.name = f"folder:{root}"
        self.preprocessing = preprocessing
        folder = _split_folder(root, split)
        try:
            classes, labels = find_classes(str(folder))
        except OSError as error:
            raise RequestError(
                f"dataset {self.name} holds no images that can be listed ({error}): "
                "it needs one folder of images per class, in DIR/test or in DIR itself"
            ) from None
        manifest = read_manifest(folder)
        if manifest is not None:
            classes, labels = list(manifest.classes), manifest.labels(folder, classes)
        self.class_names = tuple(classes)
        self._list(folder, labels, image_list)

    @classmethod
    def takes_any_size(cls, argument: str) -> bool:
        """Not where the folder says that its images have the size of a model."""
        root = Path(argument).expanduser()
        return not root.is_dir() or read_manifest(_split_folder(root, "test")) is None

    @classmethod
    def open(cls, request: DatasetRequest) -> "Folder":
        """The folder that the argument names."""
        root = Path(request.argument).expanduser()
        return cls(root, request.split, preprocessing=request.preprocessing, image_list=request.image_list)


def _split_folder(root: Path, split: Split) -> Path:
    if not root.is_dir():
        raise RequestError(f"dataset folder:{root} is not a folder: give the folder that holds the class folders")
    if (root / split).is_dir():
        return root / split
    if split == "train":
        raise RequestError(f"dataset folder:{root} has no folder train: training needs DIR/train/CLASS/*")
    return root
