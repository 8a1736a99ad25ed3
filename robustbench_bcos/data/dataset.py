"""A labelled collection of images, read one at a time, and what it says about itself before it is opened."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

from robustbench_bcos.core.download import Report
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.class_order import ClassOrder
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing

if TYPE_CHECKING:
    import torch

Split = Literal["train", "test"]

BACKGROUND, VOID = -1, -2
"""What a mask says of pixels that belong to no class, and of those that do not count: borders, what nobody labelled."""


class AbstractDataset(ABC):
    """Images with labels and class names; only what must be is kept in memory.

    Attributes:
        channels: of its images: 3, or 1 of grey ones that are to be attacked as such.
        any_size: whether images come in all sizes, so that they are resized and cropped to that of the models.
        adversarial: whether images were made to be misclassified, so that answers to them are no clean accuracy.
        name: as in the request, ``folder:DIR`` included.
        labels: class of each image, in the dataset's own order.
        class_names: one name per class.
        has_masks: whether :meth:`mask` says which pixels belong to which class. The label of an image is then the class
            that has most of its pixels.
        preprocessing: how images were brought to the size they have.
        notes: what a reader of a number must know of the images, a sentence each: what was chosen, left out, converted.
    """

    any_size: ClassVar[bool] = False
    adversarial: bool = False
    has_masks: ClassVar[bool] = False
    channels: int = 3

    name: str
    labels: list[int]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing = AS_THEY_ARE
    notes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, index: int) -> "torch.Tensor":
        """One image as float32 in [0, 1], RGB of shape (3, height, width), or (1, height, width).

        Raises:
            RequestError: the image cannot be read; the message says which file it is.
        """

    def mask(self, index: int) -> "torch.Tensor":
        """The class of each pixel of an image as it is read, int16 of shape (height, width).

        Numbers are positions in ``class_names``, or ``BACKGROUND`` or ``VOID``.

        Raises:
            RequestError: the dataset has no masks, or this one cannot be read.
        """
        raise RequestError(
            f"dataset {self.name} has no masks, which say where in an image its class is: choose one that has"
        )

    def __len__(self) -> int:
        return len(self.labels)


class AbstractView(AbstractDataset):
    """Another dataset's images, read in another way; what it says of them is said of these.

    Args:
        dataset: where images come from.
    """

    def __init__(self, dataset: AbstractDataset) -> None:
        self.name = dataset.name
        self.labels = dataset.labels
        self.class_names = dataset.class_names
        self.preprocessing = dataset.preprocessing
        self.adversarial = dataset.adversarial
        self.channels = dataset.channels
        self._dataset = dataset

    @property
    def any_size(self) -> bool:  # type: ignore[override] # what the dataset says
        """Whether the images come in all sizes."""
        return self._dataset.any_size

    @property
    def has_masks(self) -> bool:  # type: ignore[override] # what the dataset says
        """Whether images have masks."""
        return self._dataset.has_masks

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override] # what the dataset says by now
        """What the dataset says of its images."""
        return self._dataset.notes

    def mask(self, index: int) -> "torch.Tensor":
        """The dataset's."""
        return self._dataset.mask(index)


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """What a dataset is opened with. What a class says that it does not need has its default."""

    split: Split
    argument: str = ""
    """What follows the name and a colon."""
    data_dir: Path = Path()
    download: bool = False
    """Whether to fetch what is missing."""
    preprocessing: Preprocessing = AS_THEY_ARE
    image_list: Path | None = None
    """A text file that names the images to use; by default all are used."""
    class_order: ClassOrder | None = None
    """Which class is which output, where something says so."""


class AbstractNamedDataset(AbstractDataset):
    """A dataset that ``--dataset NAME`` opens.

    Attributes:
        radii: epsilon that the field reports for each norm, such as ``8/255``; where it comes from, the class says.
        radii_by_default: whether they also hold where nobody asks for a radius.
        models_of: the dataset whose models are taken where nobody names some; empty for its own.
        argument: placeholder of what is written after the name and a colon, ``DIR`` in ``folder:DIR``; empty for none.
        argument_optional: whether the name alone will do, too.
        takes_class_order: whether a list of classes says which label each class has.
        data_dir_holds: what must lie in ``--data-dir``; empty where no such folder is needed.
        image_shape: (channel, height, width) of every image; ``None`` where files say it.
        test_images: how many there are to test on; ``None`` where files say it.
        usual_size: height and width in pixels that networks for it usually take, where images come in all sizes.
        url: where :meth:`fetch` finds it; empty for what cannot be downloaded.
        how_to_get: for what cannot be downloaded, the sentence that says why and what to do instead.
    """

    radii: ClassVar[Mapping[str, str]] = MappingProxyType({})
    radii_by_default: ClassVar[bool] = False
    models_of: ClassVar[str] = ""
    argument: ClassVar[str] = ""
    argument_optional: ClassVar[bool] = False
    takes_class_order: ClassVar[bool] = False
    data_dir_holds: ClassVar[str] = ""
    image_shape: ClassVar[tuple[int, int, int] | None] = None
    test_images: ClassVar[int | None] = None
    usual_size: ClassVar[tuple[int, int] | None] = None
    url: ClassVar[str] = ""
    how_to_get: ClassVar[str] = "this dataset cannot be fetched: ask those who made it"

    @classmethod
    def locate(cls, request: DatasetRequest) -> None:
        """Refuse, before torch is imported, what :meth:`open` would refuse because a folder is not there.

        Raises:
            RequestError: as :meth:`open` says it.
        """

    @classmethod
    @abstractmethod
    def open(cls, request: DatasetRequest) -> AbstractDataset:
        """Find the images of one split, without reading them.

        Raises:
            RequestError: the files are not there, or not as they must be.
        """

    @classmethod
    def images_if_fewer(cls, request: DatasetRequest, wanted: int) -> int | None:
        """How many images there are, where they may be fewer than so many; ``None`` where to count them takes long.

        Raises:
            RequestError: as :meth:`open` says it.
        """
        return cls.test_images

    @classmethod
    def known_classes(cls) -> tuple[str, ...] | None:
        """Its class names, where no file says them."""
        return None

    @classmethod
    def takes_any_size(cls, argument: str) -> bool:
        """Whether images come in all sizes where this is what is written after the name and a colon."""
        return cls.any_size

    @classmethod
    def fetch(cls, data_dir: Path, report: Report, waiting: Callable[[], None]) -> Path:
        """Download the dataset, unless it is there; gives the folder that holds it.

        Args:
            data_dir: the folder that ``--data-dir`` will name.
            report: called with the progress.
            waiting: called when another process is fetching the same file.

        Raises:
            RequestError: it cannot be downloaded, or what arrives is not what was published.
        """
        raise RequestError(cls.how_to_get)

    @classmethod
    def usage(cls, name: str) -> str:
        """How the dataset is written after ``--dataset``: ``digits``, ``folder:DIR``, ``squares[:SIZE]``."""
        if not cls.argument:
            return name
        return f"{name}[:{cls.argument}]" if cls.argument_optional else f"{name}:{cls.argument}"
