"""A dataset of tensors that the caller already has."""

import torch
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Images, Int, Labels
from robustbench_bcos.data.dataset import BACKGROUND, VOID, AbstractDataset


class InMemory(AbstractDataset):
    """Images and labels that are in memory already.

    Raises:
        RequestError: no images, not RGB or grey in [0, 1], not one non-negative label per image, or masks that are not
            classes of the pixels of each image.
    """

    def __init__(
        self,
        images: Images,
        labels: Labels,
        *,
        classes: int,
        masks: Int[Tensor, "image mask_height mask_width"] | None = None,
    ) -> None:
        if images.numel() == 0:
            raise RequestError(f"images must not be empty, got shape {tuple(images.shape)}: give at least one")
        if images.shape[1] not in (1, 3) or not images.isfinite().all() or images.min() < 0 or images.max() > 1:
            raise RequestError("images must be of shape (image, 3 or 1, height, width) with values in [0, 1]")
        if len(labels) != len(images) or labels.min() < 0 or labels.max() >= classes:
            raise RequestError(
                f"labels must be one class from 0 to {classes - 1} for each of {len(images)} images, got {len(labels)} "
                f"from {int(labels.min())} to {int(labels.max())}: number them as the model's outputs are"
            )
        self.name = "memory"
        self.channels = images.shape[1]
        self.labels = labels.tolist()
        self.class_names = tuple(str(label) for label in range(classes))
        self._images = images.detach().cpu().to(torch.float32)
        if masks is not None and (len(masks) != len(images) or masks.min() < VOID or masks.max() >= classes):
            raise RequestError(
                f"masks must be one for each of {len(images)} images, of classes from 0 to {classes - 1}, "
                f"{BACKGROUND} where none of them is and {VOID} for what does not count"
            )
        self._masks = None if masks is None else masks.detach().cpu().to(torch.int16)

    @property
    def has_masks(self) -> bool:  # type: ignore[override] # some have
        """Whether there are masks."""
        return self._masks is not None

    def mask(self, index: int) -> Tensor:
        """One mask, at its own resolution."""
        return super().mask(index) if self._masks is None else self._masks[index]

    def read(self, index: int) -> Tensor:
        """One image."""
        return self._images[index]
