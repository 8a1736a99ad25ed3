"""Records made by hand: what a reader is shown does not depend on any model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_bcos.bench.cells import make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence.trust import Outcome, Status
from robustbench_bcos.bench.records import COLUMNS, SIMILARITY_COLUMNS
from robustbench_bcos.core.statistics import wilson
from robustbench_bcos.reports.results import Results
from robustbench_bcos.reports.run_folder import RunFolder
from tests.bench.by_hand import identity_of

TOTAL = 200
(CELL,) = make_cells(make_config({"norm": ("l2",), "eps": ("0.5",), "steps": (20,)}), ["net"])


def record(model: str, robust: int, *, clean: int = 190, **changes: Any) -> dict[str, Any]:
    """One row of results, of which only what matters is given."""
    interval = wilson(robust, TOTAL)
    row: dict[str, Any] = {
        "model": model,
        "family": "conventional",
        "architecture": "resnet8",
        "parameters": 78042,
        "training": "natural",
        "dataset": "digits",
        "subset": "0123456789ab",
        "images": TOTAL,
        "attack": "pgd",
        "norm": "l2",
        "eps": "0.5",
        "epsilon": 0.5,
        "steps": 20,
        "step_size": 0.0625,
        "loss": "ce",
        "restarts": 1,
        "start": "image",
        "select": "first_success",
        "space": "image",
        "seed": 0,
        "clean_correct": clean,
        "clean_accuracy": clean / TOTAL,
        "robust_correct": robust,
        "robust_accuracy": robust / TOTAL,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "worst_correct": robust,
        "robust_accuracy_worst": robust / TOTAL,
        "trust": "sound",
        "reasons": "",
        "degenerate_gradient_share": 0.0,
        "mean_perturbation": 0.25,
        "forward_passes": 1000,
        "backward_passes": 800,
        "weights_sha256": "ab" * 32,
        "version": "0.2.0",
        "b": None,
        "explanation": "",
        "explained_images": 0,
        "explanation_changed_attack": None,
        "explanation_changed_noise": None,
        "explanation_changed_other": None,
        "encoding": "none",
        "queries": 0,
        "targets": 0,
        "evidence": "quick",
        "evidence_images": 0,
        "evidence_passes": 0,
        "attack_backend": "folded channels_last fp32",
        "inherited": 0,
        "criterion": "misclassified",
        "options": "",
        "assumed": "",
        "draws": 1,
        "texts": "",
        "attacked_maps": "",
        "explanation_fooled_most": None,
        "explanation_withstood_least": None,
        "worst_ci_low": interval.low,
        "worst_ci_high": interval.high,
        **dict.fromkeys(SIMILARITY_COLUMNS),
    }
    assert tuple(row) == COLUMNS
    return row | changes


def outcome(cell: str, check: str, status: Status, against: int = 0, examined: int = 40, **said: Any) -> dict[str, Any]:
    """A row of ``evidence.csv``."""
    found = {"sentence": f"{against} of {examined} images {check}", "link": f"page#{check}"} | said
    return {
        "cell": cell,
        **asdict(Outcome(check=check, status=status, examined=examined, against=against, **found)),
    }


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def results_of(*rows: dict[str, Any], survivors: dict[int, str] | None = None, name: str = "now") -> Results:
    """As read from a file."""
    return Results(source=Path(name), records=table(*rows), survivors=survivors or {})


def run_of(
    records: pd.DataFrame, folder: Path = Path("nowhere"), *, missing: int = 0, similarities: pd.DataFrame | None = None
) -> RunFolder:
    """A run whose complete cells are these; nothing is explained unless rows are given."""
    return RunFolder(
        folder=folder,
        identity=identity_of(*[CELL] * (len(records) + missing), images=TOTAL),
        records=records,
        timings=pd.DataFrame([{"cell": "a cell", "attack_seconds": 1.25, "explanation_seconds": 0.5}]),
        similarities=pd.DataFrame() if similarities is None else similarities,
        cells=[f"cell {number}" for number in range(len(records))],
        pictures={},
        evidence=pd.DataFrame(),
        transfers=pd.DataFrame(),
        distances=pd.DataFrame(),
        session={"class_names": [str(digit) for digit in range(10)], "images": []},
    )
