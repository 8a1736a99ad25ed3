"""Datasets by their names, which :data:`DATASETS` knows. Importing this imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.class_order import ClassOrder
from robustbench_bcos.data.dataset import AbstractDataset, AbstractNamedDataset, DatasetRequest, Split
from robustbench_bcos.data.image_list import read_image_list
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing


def open_dataset(
    dataset: str,
    split: Split,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    preprocessing: Preprocessing = AS_THEY_ARE,
    image_list: Path | None = None,
    class_order: ClassOrder | None = None,
) -> AbstractDataset:
    """The dataset of a name, with its argument after a colon where it takes one: ``digits``, ``folder:DIR``.

    Raises:
        RequestError: no such dataset, its files are not there, its images have one size and are to be given another, or
            its classes have one order and are to be given another.
    """
    kind, request = _request(
        dataset,
        split,
        data_dir=data_dir,
        download=download,
        preprocessing=preprocessing,
        image_list=image_list,
        class_order=class_order,
    )
    return kind.open(request)


def locate_dataset(
    dataset: str,
    split: Split,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    image_list: Path | None = None,
    class_order: ClassOrder | None = None,
) -> None:
    """Refuse, without torch, what :func:`open_dataset` would refuse because it is not there.

    Raises:
        RequestError: as :func:`open_dataset` says it.
    """
    kind, request = _request(
        dataset, split, data_dir=data_dir, download=download, image_list=image_list, class_order=class_order
    )
    if image_list is not None:
        read_image_list(image_list)
    kind.locate(request)


def image_shape(dataset: str) -> tuple[int, int, int] | None:
    """(channel, height, width) of every image of a dataset, where that is known before it is opened.

    Raises:
        RequestError: no such dataset.
    """
    return dataset_class(dataset.partition(":")[0]).image_shape


def usual_size(dataset: str) -> tuple[int, int] | None:
    """Height and width of images that networks for a dataset take, where they are known; of no dataset, ``None``."""
    if not is_dataset(dataset):
        return None
    kind = dataset_class(dataset.partition(":")[0])
    return kind.usual_size if kind.image_shape is None else kind.image_shape[1:]


def check_images(dataset: str, *, limit: int | None, indices: Sequence[int], data_dir: Path | None = None) -> None:
    """Refuse, without torch, more images or others than a dataset has to test on, where that can be seen at a glance.

    Raises:
        RequestError: there are not so many.
    """
    kind, request = _request(dataset, "test", data_dir=data_dir, download=False, image_list=None, class_order=None)
    there = kind.images_if_fewer(request, max([limit or 0, *(index + 1 for index in indices)]))
    if there == 0:
        raise RequestError(f"{dataset} holds no images in class folders: choose another dataset")
    if there is not None:
        check_limit(limit, there, dataset)
        for index in indices:
            check_index(index, there, dataset)


def check_limit(limit: int | None, images: int, dataset: str) -> None:
    """Refuse to use more images than there are.

    Raises:
        RequestError: the limit is larger, or not positive.
    """
    if limit is not None and not 1 <= limit <= images:
        raise RequestError(f"limit {limit} must be between 1 and the {images} images of {dataset}")


def check_index(index: int, images: int, dataset: str) -> None:
    """Refuse the index of an image that there is not.

    Raises:
        RequestError: it is too large.
    """
    if index >= images:
        raise RequestError(f"images {index} is not in {dataset}: its images are numbered 0 to {images - 1}")


def class_names(dataset: str) -> tuple[str, ...] | None:
    """One name per class of a dataset, where that is known before it is opened.

    Raises:
        RequestError: no such dataset.
    """
    return dataset_class(dataset.partition(":")[0]).known_classes()


def is_dataset(dataset: str) -> bool:
    """Whether a dataset of that name, with an argument or without, is known."""
    return dataset.partition(":")[0] in DATASETS


def any_size(dataset: str) -> bool:
    """Whether a dataset's images come in all sizes, so that they are resized and cropped to that of the models.

    Raises:
        RequestError: no such dataset.
    """
    name, _, argument = dataset.partition(":")
    return dataset_class(name).takes_any_size(argument)


def check_any_size(dataset: str) -> None:
    """Refuse to resize, crop or list images that come in one size, in no files of their own.

    Raises:
        RequestError: they do.
    """
    if not dataset_class(dataset.partition(":")[0]).any_size:
        raise RequestError(
            f"resize, crop, interpolation and image_list are for image files of any size, and {dataset} is fixed: "
            "leave them out"
        )


def models_of(dataset: str) -> str:
    """The dataset whose models are taken where nobody names some: its own, or the one that it is made of.

    Raises:
        RequestError: no such dataset.
    """
    return dataset_class(dataset.partition(":")[0]).models_of or dataset


def takes_class_order(dataset: str) -> bool:
    """Whether a list of classes says which label each class of a dataset has.

    Raises:
        RequestError: no such dataset.
    """
    return dataset_class(dataset.partition(":")[0]).takes_class_order


def usages() -> list[str]:
    """All datasets as they are written, ``folder:DIR`` included; of those of other packages the names alone."""
    # To know more of those, they would have to be imported, which may take seconds or fail.
    return [DATASETS[name].usage(name) if name in DATASETS.packaged else name for name in DATASETS]


def dataset_class(name: str) -> type[AbstractNamedDataset]:
    """The class of a dataset, by its name without an argument.

    Raises:
        RequestError: no such dataset.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, usages())
    return DATASETS[name]


def _request(
    dataset: str,
    split: Split,
    *,
    data_dir: Path | None,
    download: bool,
    preprocessing: Preprocessing = AS_THEY_ARE,
    image_list: Path | None,
    class_order: ClassOrder | None,
) -> tuple[type[AbstractNamedDataset], DatasetRequest]:
    """What opens a dataset, and with what."""
    name, _, argument = dataset.partition(":")
    kind = dataset_class(name)
    if argument and not kind.argument:
        raise RequestError(f"dataset {name!r} takes no argument, got {argument!r}: write {name}")
    if kind.argument and not argument and not kind.argument_optional:
        raise RequestError(f"dataset {dataset!r} lacks its argument: write {kind.usage(name)}")
    if preprocessing != AS_THEY_ARE or image_list is not None:
        check_any_size(dataset)
    if not kind.takes_class_order and class_order is not None:
        raise RequestError(
            f"the classes of dataset {dataset} have their order, and {class_order.origin} gives another: leave it out"
        )
    if data_dir is None and kind.data_dir_holds:
        raise RequestError(f"dataset {dataset} needs data_dir: name the folder that holds {kind.data_dir_holds}")
    return kind, DatasetRequest(
        split=split,
        argument=argument,
        data_dir=data_dir or Path(),
        download=download,
        preprocessing=preprocessing,
        image_list=image_list,
        class_order=class_order,
    )
