"""Whether the model was made for pixels in another range, or for images that are read in another way."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractModelCheck
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.evidence.found import Found


@final
@CHECKS.registered("pixel_range")
class PixelRange(AbstractModelCheck):
    """Without its normalisation a network is worse, and the accuracy under attack is that of another network."""

    asks = "classified correctly only if the pixels are given in another range or order"
    rule = "any"

    def examine(self, model: ModelContext) -> Found:
        """The model, beside its network behind other encodings."""
        from robustbench_bcos.bench.evidence.alternatives import CERTAIN, RANGES, in_words, other_ranges

        compared = model.compare(other_ranges(model.classifier), CERTAIN)
        return compared.found(lambda name: f"{in_words(name)} ({name})" if name in RANGES else in_words(name))
