"""Images of one channel, for models that take them."""

from collections import Counter
from typing import TYPE_CHECKING, final

from robustbench_bcos.data.dataset import AbstractDataset, AbstractView
from robustbench_bcos.data.decoding import notes_of

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_bcos.core.types import Images


MADE_GREY = "made grey"


@final
class WithChannels(AbstractView):
    """A dataset whose images are grey where they had colours, or have their grey in three channels."""

    def __init__(self, dataset: AbstractDataset, channels: int) -> None:
        super().__init__(dataset)
        self.channels = channels
        self._coloured: set[int] = set()

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override] # it grows as images are read
        """What the dataset says, and how many of the images that were read had colours."""
        return (*self._dataset.notes, *notes_of(+Counter({MADE_GREY: len(self._coloured)})))

    def read(self, index: int) -> "Tensor":
        """One image, (channels, height, width)."""
        image = self._dataset.read(index)
        if self.channels == 3:
            return image if len(image) == 3 else image.expand(3, -1, -1).clone()
        if coloured(image[None]):
            self._coloured.add(index)
        return with_channels(image[None], 1)[0]


def coloured(images: "Images") -> int:
    """How many images have colours, which making them grey takes away."""
    return int((images != images[:, :1]).flatten(1).any(dim=1).sum())


def with_channels(images: "Images", channels: int) -> "Images":
    """RGB images as they are or with one channel: the one that all three are, or else as torchvision makes grey.

    That is 0.2989 red, 0.587 green and 0.114 blue.
    """
    if channels == 3 or images.shape[1] == 1:
        return images
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    if bool((images == images[:, :1]).all()):
        # The weights sum to 0.9999.
        return images[:, :1].clone()
    grey: Images = rgb_to_grayscale(images, num_output_channels=1)
    return grey
