"""What a check finds, before it is written down."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from robustbench_bcos.bench.evidence.selection import Part
from robustbench_bcos.bench.rows import ResultRow
from robustbench_bcos.core.rounding import significant
from robustbench_bcos.core.types import Counts, Flags, PerImage


class Found(NamedTuple):
    """Of each image of a batch."""

    against: Flags
    """Whether it speaks against the number."""
    values: PerImage | None
    """What was measured, where there is such a thing."""
    passes: Counts | int
    """Forward and backward passes spent."""
    fell: Flags | None = None
    """Whether the model was fooled within the cell's threat; nothing is where nothing was attacked."""

    def rows(self, subject: str, check: str, parts: Mapping[int, Part]) -> list[ResultRow]:
        """As they are stored, for these images, each of a part."""
        count = len(self.against)
        fell = torch.zeros(count, dtype=torch.bool) if self.fell is None else self.fell
        values = [None] * count if self.values is None else [significant(value) for value in self.values.tolist()]
        passes = [self.passes] * count if isinstance(self.passes, int) else self.passes.tolist()
        columns = zip(parts.items(), fell.tolist(), self.against.tolist(), values, passes, strict=True)
        return [
            ResultRow(
                subject=subject,
                check=check,
                image=image,
                part=part,
                broken=broken,
                against=against,
                value=value,
                passes=spent,
            )
            for (image, part), broken, against, value, spent in columns
        ]
