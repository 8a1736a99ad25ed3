"""Image folders: ``DIR/test/CLASS/*`` or ``DIR/CLASS/*``, any format that Pillow reads without running it."""

from pathlib import Path
from typing import final

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.class_folders import find_classes, find_split, images_if_fewer
from robustbench_bcos.data.class_order import ClassOrder, check_order
from robustbench_bcos.data.dataset import DatasetRequest, Split
from robustbench_bcos.data.file_dataset import AbstractFileDataset
from robustbench_bcos.data.manifest import read_manifest
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing


@final
@DATASETS.registered("folder")
class Folder(AbstractFileDataset):
    """A folder of classes, numbered by a list of classes, by its ``dataset.json``, or by the order of their names."""

    argument = "DIR"
    takes_class_order = True
    how_to_get = "folder:DIR is a folder of your own and cannot be fetched: run with --dataset folder:DIR"

    def __init__(
        self,
        root: Path,
        split: Split,
        *,
        preprocessing: Preprocessing = AS_THEY_ARE,
        image_list: Path | None = None,
        class_order: ClassOrder | None = None,
    ) -> None:
        self.name = f"folder:{root}"
        self.preprocessing = preprocessing
        _check_folder(root)
        asked = () if class_order is None else (*class_order.names, *class_order.others)
        folder = find_split(root, split, asked=asked)
        if folder is None and split == "train":
            raise RequestError(f"dataset {self.name} has no folder train: training needs DIR/train/CLASS/*")
        if folder is not None:
            self._found = (f"Images: those in its folder {folder.name}.",)
        folder = folder or root
        manifest = read_manifest(folder)
        asked = asked if manifest is None else (*asked, *manifest.classes)
        classes = find_classes(folder, self.name, asked)
        if manifest is not None:
            labels, self.class_names = manifest.labels(folder, classes), manifest.classes
            self.adversarial = manifest.adversarial
            self._found += ("Images: adversarial ones that a run has saved.",) if manifest.adversarial else ()
        else:
            if class_order is None:
                check_order(self.name, classes)
            order = class_order or ClassOrder.of(self.name, [[name] for name in classes])
            labels, self.class_names = order.labels(classes), order.names
        if class_order is not None and len(class_order.names) != len(self.class_names):
            raise RequestError(
                f"{folder} says that it has {len(self.class_names)} classes, and {class_order.origin} has "
                f"{len(class_order.names)}: leave the latter out"
            )
        self._list(folder, labels, image_list, asked)

    @classmethod
    def takes_any_size(cls, argument: str) -> bool:
        """Not where the folder says that its images have the size of a model."""
        root = Path(argument).expanduser()
        return not root.is_dir() or read_manifest(find_split(root, "test") or root) is None

    @classmethod
    def locate(cls, request: DatasetRequest) -> None:
        """Whether the folder is one."""
        _check_folder(Path(request.argument).expanduser())

    @classmethod
    def images_if_fewer(cls, request: DatasetRequest, wanted: int) -> int | None:
        """Those in its class folders."""
        root = Path(request.argument).expanduser()
        return images_if_fewer(find_split(root, request.split) or root, wanted)

    @classmethod
    def open(cls, request: DatasetRequest) -> "Folder":
        """The folder that the argument names."""
        return cls(
            Path(request.argument).expanduser(),
            request.split,
            preprocessing=request.preprocessing,
            image_list=request.image_list,
            class_order=request.class_order,
        )


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        raise RequestError(f"dataset folder:{root} is not a folder: give the folder that holds the class folders")
