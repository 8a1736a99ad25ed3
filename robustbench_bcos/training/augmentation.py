"""Random flips and crops of whole batches, each drawn from a generator that is handed in."""

import torch
import torch.nn.functional as F

from robustbench_bcos.core.types import Images
from robustbench_bcos.training.recipes import Augmentation


def augment(images: Images, augmentation: Augmentation, generator: torch.Generator) -> Images:
    """One random variant of each image, of the same shape."""
    if augmentation.flip:
        flipped = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(flipped.to(images.device)[:, None, None, None], images.flip(3), images)
    if augmentation.crop:
        images = _random_crops(images, augmentation.crop, generator)
    return images


def _random_crops(images: Images, padding: int, generator: torch.Generator) -> Images:
    count, channels, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator).to(images.device)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return F.pad(images, (padding,) * 4)[image, channel, rows, columns]
