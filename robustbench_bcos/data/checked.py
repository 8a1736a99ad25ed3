"""Images that must be those which another process has seen."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, final

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.dataset import AbstractDataset, AbstractView

if TYPE_CHECKING:
    import torch


@final
class Checked(AbstractView):
    """A dataset each of whose images is compared with its digest whenever it is read.

    Args:
        dataset: where images come from.
        digests: of the images that may be read, by index, as :func:`image_digests` gives them.
    """

    def __init__(self, dataset: AbstractDataset, digests: Mapping[int, str]) -> None:
        super().__init__(dataset)
        self._digests = digests

    def read(self, index: int) -> "torch.Tensor":
        """One image.

        Raises:
            RequestError: it, or its class, is another one.
        """
        image = self._dataset.read(index)
        if _digest(image, self._dataset, index) != self._digests.get(index):
            raise RequestError(
                f"image {index} of {self.name} is not the one that the run began with: restore it, or repeat the run "
                "in another folder"
            )
        return image


def image_digests(dataset: AbstractDataset, indices: Sequence[int]) -> dict[int, str]:
    """A digest of each image, its class and its class's name."""
    return {index: _digest(dataset.read(index), dataset, index) for index in indices}


def _digest(image: "torch.Tensor", dataset: AbstractDataset, index: int) -> str:
    label = dataset.labels[index]
    digest = blake2b(f"{label} {dataset.class_names[label]} {tuple(image.shape)}".encode(), digest_size=8)
    digest.update(image.contiguous().numpy().astype("<f4", copy=False).reshape(-1).data)
    return digest.hexdigest()
