"""What a check finds, before it is written down."""

from collections.abc import Mapping
from dataclasses import dataclass

from robustbench_bcos.bench.evidence.selection import Part
from robustbench_bcos.bench.rows import ResultRow
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.rounding import significant
from robustbench_bcos.core.types import Counts, Flags, PerImage


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a check found, for each image of a batch."""

    against: Flags
    """Whether it speaks against the number."""
    values: PerImage | None = None
    """What was measured, where there is such a thing."""
    passes: Counts | int
    """Forward and backward passes spent."""
    broken: Flags | None = None
    """Whether a further attack succeeded within the cell's threat; none did where nothing was attacked."""
    finding: str = ""
    """What these do not say, in words; empty where they say everything."""

    def rows(self, subject: str, check: str, parts: Mapping[int, Part]) -> list[ResultRow]:
        """As they are stored, for these images, each of a part."""
        count = len(self.against)
        broken = torch.zeros(count, dtype=torch.bool) if self.broken is None else self.broken
        values = [None] * count if self.values is None else [significant(value) for value in self.values.tolist()]
        passes = [self.passes] * count if isinstance(self.passes, int) else self.passes.tolist()
        columns = zip(parts.items(), broken.tolist(), self.against.tolist(), values, passes, strict=True)
        return [
            ResultRow(
                subject=subject,
                check=check,
                image=image,
                part=part,
                broken=down,
                against=against,
                value=value,
                passes=spent,
            )
            for (image, part), down, against, value, spent in columns
        ]
