"""How well adversarial examples transfer from the model they were made on, the source, to another, the target."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.rows import TransferRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.statistics import wilson

COLUMNS = (
    "attack",
    "norm",
    "eps",
    "steps",
    "source",
    "target",
    "images",
    "broken",
    "share",
    "ci_low",
    "ci_high",
    "cell",
)


def make_transfers(store: Store, identity: RunIdentity) -> pd.DataFrame:
    """A row for each pair of models and threat, a model and itself included.

    ``share`` is the part of the images that the target classifies correctly on which an adversarial example of the
    source succeeds; ``cell`` is the target's.
    """
    rows = [row for cell in identity.cells for row in _rows(store, cell)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(store: Store, cell: Cell) -> Iterator[dict[str, Any]]:
    found: dict[str, list[bool]] = {}
    for row in store.select(TransferRow, cell=cell.key):
        found.setdefault(row.source, []).append(row.broken)
    if not found:
        return
    own = store.broken(cell)
    found[cell.model] = [image in own for image in store.adversarials(cell)]
    for source, broken in found.items():
        interval = wilson(sum(broken), len(broken))
        yield {
            "attack": cell.attack.name,
            "norm": cell.threat.norm,
            "eps": cell.threat.text,
            "steps": cell.attack.effort,
            "source": source,
            "target": cell.model,
            "images": len(broken),
            "broken": sum(broken),
            "share": sum(broken) / len(broken),
            "ci_low": interval.low,
            "ci_high": interval.high,
            "cell": cell.key,
        }
