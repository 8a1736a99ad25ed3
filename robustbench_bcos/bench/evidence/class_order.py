"""Whether labels and outputs count the classes in different orders.

A model that is right and whose classes are counted in another order is wrong about nearly every image. Which order it
counts them in is learnt from half of the images and tried on the other half, so that chance gains nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from robustbench_bcos.core.prediction import NO_CLASS
from robustbench_bcos.core.statistics import mcnemar_worse
from robustbench_bcos.core.types import Bool

Flags = Bool[np.ndarray, "image"]

CERTAIN = 1e-3
"""P value, for all readings together, below which another order of the classes is the model's."""

AGREEMENT = 0.4
"""Share of the images with a label that is read otherwise, or with the prediction that it is read as, in which both
must be together; and a little more than one in so many classes beside, since even random networks tell two or three
classes apart."""

AGREEMENT_IF_NAMED = 0.2
"""The same for an order that is not learnt from the predictions."""

MANY = 10
"""Classes above which orders with a name are tried, too: of so many, a subset may have too few images to learn from."""

SHOWN = 3
"""Classes that a message lists."""


class Order(NamedTuple):
    """How labels are to be read: by label, the prediction that stands for it."""

    how: str
    reading: Mapping[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reordered:
    """A reading of the labels that makes a model right."""

    order: Order
    right: Flags
    """Which images are right as they are labelled."""
    right_if_read: Flags

    def words(self, class_names: Sequence[str] = ()) -> str:
        """Both counts, and how the first labels are read."""
        moved = [(label, read) for label, read in sorted(self.order.reading.items()) if read != label]
        listed = ", ".join(f"{_named(label, class_names)} as {read}" for label, read in moved[:SHOWN])
        more = f" and {len(moved) - SHOWN} more" if len(moved) > SHOWN else ""
        return (
            f"{int(self.right.sum())} of {len(self.right)} images are right as they are labelled and "
            f"{int(self.right_if_read.sum())} if {self.order.how} ({listed}{more})"
        )


def find_order(labels: Sequence[int], predictions: Sequence[int], classes: int) -> Reordered | None:
    """The order of the classes that a model has, if it is not that of the labels.

    Args:
        labels: one for each image.
        predictions: of the model, in the order of its outputs.
        classes: their number.
    """
    return _found(tuple(labels), tuple(predictions), classes)


@lru_cache(maxsize=1)
def _found(labels: tuple[int, ...], predictions: tuple[int, ...], classes: int) -> Reordered | None:
    """Once for all cells of a model."""
    named = _named_orders(classes) if classes > MANY else []
    tried = [_learnt(labels, predictions)]
    tried += [_tried(order, labels, predictions, AGREEMENT_IF_NAMED) for order in named]
    found = [reordered for reordered in tried if reordered is not None]
    return max(found, key=lambda reordered: int(reordered.right_if_read.sum()), default=None)


def _named_orders(classes: int) -> list[Order]:
    """Orders that come from mistakes: counting from one, and numbers that are sorted as texts are."""
    numbers = range(classes)
    as_text = sorted(numbers, key=str)
    return [
        Order("each label is read as one less", {label: label - 1 for label in numbers}),
        Order("each label is read as one more", {label: label + 1 for label in numbers}),
        Order("labels sorted as texts are read as numbers", dict(enumerate(as_text))),
        Order("labels sorted as numbers are read as texts", {label: place for place, label in enumerate(as_text)}),
    ]


def _learnt(labels: Sequence[int], predictions: Sequence[int]) -> Reordered | None:
    """Each label read as its commonest prediction, no two as one; learnt from every other image of a label."""
    seen: Counter[int] = Counter()
    halves = []
    for label in labels:
        halves.append(seen[label] % 2)
        seen[label] += 1
    pairs = list(zip(labels, predictions, strict=True))
    readings = [_commonest([pair for pair, half in zip(pairs, halves, strict=True) if half == part]) for part in (0, 1)]
    whole = Order("each label is read as its commonest prediction", _commonest(pairs))
    return _tried(whole, labels, predictions, AGREEMENT, [readings[1 - half] for half in halves])


def _commonest(pairs: Sequence[tuple[int, int]]) -> dict[int, int]:
    reading: dict[int, int] = {}
    taken = {NO_CLASS}
    # The commonest pairs first; among equals, labels that are what they say.
    for (label, prediction), _ in sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0][0] != item[0][1])):
        if label not in reading and prediction not in taken:
            reading[label] = prediction
            taken.add(prediction)
    return reading


def _tried(
    order: Order,
    labels: Sequence[int],
    predictions: Sequence[int],
    agreement: float,
    readings: Sequence[Mapping[int, int]] = (),
) -> Reordered | None:
    """The order, if it makes certain images right, and enough of them; each is read as was learnt without it."""
    readings = readings or [order.reading] * len(labels)
    read = [reading.get(label, label) for reading, label in zip(readings, labels, strict=True)]
    right = np.array([label == prediction for label, prediction in zip(labels, predictions, strict=True)])
    right_if_read = np.array([label == prediction for label, prediction in zip(read, predictions, strict=True)])
    won, lost = int((right_if_read & ~right).sum()), int((right & ~right_if_read).sum())
    moved = [was != now for was, now in zip(labels, read, strict=True)]
    meant = {now for now, has_moved in zip(read, moved, strict=True) if has_moved}
    concerned = sum(move or prediction in meant for move, prediction in zip(moved, predictions, strict=True))
    together = sum(hit and move for hit, move in zip(right_if_read.tolist(), moved, strict=True))
    least = agreement + 1.1 / max(1, len(set(labels)))
    # One is learnt, and four have names.
    certain = mcnemar_worse(won, lost) < CERTAIN / 5 and won >= 2 * lost
    if not certain or together < least * concerned:
        return None
    return Reordered(order=order, right=right, right_if_read=right_if_read)


def _named(label: int, class_names: Sequence[str]) -> str:
    name = class_names[label] if label < len(class_names) else str(label)
    return f"{label}" if name == str(label) else f"{label} ({name!r})"
