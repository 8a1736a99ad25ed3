"""Shapes of what is passed around. Pixels, epsilons and perturbations are in units of the pixel range [0, 1]."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Int as Int
    from jaxtyping import Shaped as Shaped
else:

    class _Unchecked:
        """The array's type alone. Who checks shapes, as tests do, loads jaxtyping before, which imports NumPy, too."""

        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:  # noqa: ANN401 (an array's type)
            array, _ = item
            return array

    Bool = Float = Int = Shaped = _Unchecked

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:

    class _OfTorch(type):
        def __instancecheck__(cls, value: object) -> bool:
            torch = sys.modules.get("torch")
            return torch is not None and isinstance(value, torch.Tensor)

    class Tensor(metaclass=_OfTorch):
        """A tensor of torch, which the caller that makes one has imported: this need not."""


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

AnyModel = Any
"""A module, a function, or any other callable from a batch of images to logits; what is none is refused in a sentence,
which the type checkers of tests would forestall."""
