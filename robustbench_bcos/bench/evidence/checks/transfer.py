"""Whether another model's adversarial examples break what gradients did not."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck, NotApplicable
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.rows import ResultRow, TransferRow


@final
@CHECKS.registered("transfer")
class Transfer(AbstractCellCheck):
    """A model that only hides its gradients is broken by what was made on a model that does not."""

    asks = "broken by an adversarial example of another model and by no search along gradients"
    rule = "gradients"

    def examine(self, cell: CellContext) -> Iterator[ResultRow | TransferRow]:
        """Adversarial examples of every other model for the same threat, judged on this one."""
        kept = _of_other_models(cell)
        clean, robust = cell.known.clean(cell.cell.model), set(cell.robust)
        broken: dict[int, bool] = {}
        for source, adversarials in kept.items():
            right = {image: pixels for image, pixels in adversarials.items() if clean[image].correct}
            for row in self._judged(cell, source, right):
                yield row
                if row.image in robust:
                    broken[row.image] = broken.get(row.image, False) or row.broken
        for image, success in sorted(broken.items()):
            yield replace(cell.row(self, image, against=success, passes=len(kept)), broken=success)

    def _judged(self, cell: CellContext, source: str, adversarials: Mapping[int, bytes]) -> Iterator[TransferRow]:
        from robustbench_bcos.bench.adversarials import from_bytes
        from robustbench_bcos.bench.judge import judge

        for attempt in cell.size.over(len(adversarials)):
            with attempt as part:
                indices = tuple(adversarials)[part]
                target = cell.target(indices, stream=self.name)
                images = from_bytes([adversarials[image] for image in indices], target.images.shape[1:])
                verdicts = judge(target, images.to(target.images.device), subject=cell.cell.key)
                for image, success in zip(indices, verdicts.success.tolist(), strict=True):
                    yield TransferRow(cell=cell.cell.key, source=source, image=image, broken=success)


def _of_other_models(cell: CellContext) -> dict[str, dict[int, bytes]]:
    """Pixels of the adversarial examples by model and image.

    Raises:
        NotApplicable: there are none.
    """
    sources = cell.request.sources
    if len(sources) < 2:
        raise NotApplicable("there is no second model in this run")
    if cell.cell.space != "image":
        raise NotApplicable("adversarial examples in the space of one model's encoding are no images for another")
    others = [source.name for source in sources if source.name != cell.cell.model]
    kept = {name: cell.known.adversarials(replace(cell.cell, model=name)) for name in others}
    if not any(kept.values()):
        raise NotApplicable("no other model of this run was attacked in the same way")
    return kept
