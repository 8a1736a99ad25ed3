"""Shapes of what is passed around. Pixels, radii and deltas are in units of the pixel range [0, 1]."""

from collections.abc import Callable

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Images = Float[Tensor, "image channel height width"]
Labels = Int[Tensor, "image"]
Goals = Shaped[Tensor, "image *goal"]
"""What success refers to, for each image: its label, the class it is to be turned into, or more."""
Logits = Float[Tensor, "image class"]
PerImage = Float[Tensor, "image"]
Maps = Float[Tensor, "image height width"]
Flags = Bool[Tensor, "image"]
Counts = Int[Tensor, "image"]

Epsilon = float | PerImage
"""One epsilon for all images, or one for each."""

Classifier = Callable[[Tensor], Tensor]
"""Images in [0, 1] to logits. Attacks know no more of a model than this."""
