"""Who falls to whose candidates: rows are the models they were made on, columns the models they are tried on."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.statistics import wilson

COLUMNS = ("attack", "norm", "eps", "steps", "source", "target", "images", "fell", "share", "ci_low", "ci_high", "cell")


def make_transfers(store: Store, identity: dict[str, Any]) -> pd.DataFrame:
    """A row for each pair of models and threat, a model and itself included.

    ``share`` is the part of the images which the target classifies correctly that a candidate of the source fools;
    ``cell`` is the target's.
    """
    cells = [Cell.from_dict(values) for values in identity["cells"]]
    rows = [row for cell in cells for row in _rows(store, cell)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(store: Store, cell: Cell) -> Iterator[dict[str, Any]]:
    found: dict[str, list[bool]] = {}
    for row in store.transfers(cell):
        found.setdefault(row.source, []).append(bool(row.fell))
    if not found:
        return
    kept = store.candidates(cell).keys()
    withstood = set(store.withstood(cell))
    found[cell.model] = [row.image not in withstood for row in store.verdicts(cell) if row.image in kept]
    for source, fell in found.items():
        interval = wilson(sum(fell), len(fell))
        yield {
            "attack": cell.attack,
            "norm": cell.norm,
            "eps": cell.radius.text,
            "steps": cell.steps,
            "source": source,
            "target": cell.model,
            "images": len(fell),
            "fell": sum(fell),
            "share": sum(fell) / len(fell),
            "ci_low": interval.low,
            "ci_high": interval.high,
            "cell": cell.key,
        }
