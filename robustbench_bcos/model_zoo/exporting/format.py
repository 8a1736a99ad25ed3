"""What every format of an exported network is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.packages import find_package

if TYPE_CHECKING:
    from torch import nn

    from robustbench_bcos.core.types import Classifier, Images


class AbstractFormat(ABC):
    """A kind of file that a classifier can be written to; a new one is registered in ``FORMATS``.

    A module of a format imports nothing heavy, so that what is missing is said at once.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    """Of its files, with the dot."""
    contents: ClassVar[str]
    """What is in a file, as the end of a sentence that begins with its name."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What it imports beyond what this package needs."""

    @final
    def check(self) -> None:
        """Look for the packages that the format needs.

        Raises:
            RequestError: one is not installed.
        """
        missing = [package for package in self.packages if find_package(package) is None]
        if missing:
            raise RequestError(
                f"format {self.name} needs {' and '.join(missing)}, not installed here: "
                f"pip install {' '.join(self.packages)}"
            )

    @abstractmethod
    def dump(self, classifier: "nn.Module", images: "Images", facts: Mapping[str, str]) -> bytes:
        """The content of a file, for batches of any size.

        Args:
            classifier: frozen; it is left as it is.
            images: two or more, to follow through the network where the format is made that way.
            facts: what a reader of the file should know, to be kept in it.
        """

    @abstractmethod
    def load(self, content: bytes, classifier: "nn.Module") -> "Classifier":
        """The exported network, as a program that has only the file runs it.

        Args:
            content: of the file.
            classifier: what it was made from, for formats that hold weights alone; no weight may come from it.
        """
