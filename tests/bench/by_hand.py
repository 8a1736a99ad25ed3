"""Rows of a store and identities of runs, made by hand: only what matters is given."""

from typing import Any

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.folder import Session
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.rows import (
    CleanRow,
    DistanceRow,
    EvidenceRow,
    ModelRow,
    R,
    TimingRow,
    TransferRow,
    VerdictRow,
)

SESSION: Session = {
    "started": "2025-01-02T03:04:05+00:00",
    "command": "robustbench_bcos run",
    "configuration": {},
    "class_names": list("0123456789"),
    "images": [],
    "versions": {"torch": "2.9"},
    "device": "a CPU",
    "commit": "ef" * 20,
}


def model_row(**changes: Any) -> ModelRow:
    row = {
        "name": "net",
        "family": "bcos",
        "architecture": "bcos_resnet8",
        "parameters": 123,
        "training": "natural",
        "loss": "bce",
        "weights_sha256": "ab" * 32,
        "b": 2.0,
        "explanation": "",
    }
    return ModelRow(**row | changes)


def clean_row(image: int, label: int = 1, prediction: int = 1, model: str = "net") -> CleanRow:
    return CleanRow(model=model, image=image, label=label, prediction=prediction, correct=prediction == label)


def verdict_row(cell: Cell, image: int, **changes: Any) -> VerdictRow:
    """By default of an attacked image of class 1 that stays robust: another prediction is a success."""
    row = {
        "cell": cell.key,
        "image": image,
        "attacked": True,
        "success": changes.get("attacked", True) and changes.get("prediction", 1) != 1,
        "prediction": 1,
        "size": 0.25,
        "degenerate_gradient": False,
        "forward_passes": 3,
        "backward_passes": 2,
    }
    return VerdictRow(**row | changes)


def not_attacked(cell: Cell, image: int) -> VerdictRow:
    return verdict_row(cell, image, attacked=False, prediction=-1, size=0.0, forward_passes=0, backward_passes=0)


def evidence_row(subject: str, check: str = "noise", skipped_because: str = "") -> EvidenceRow:
    return EvidenceRow(subject=subject, check=check, skipped_because=skipped_because)


def transfer_row(cell: Cell, source: str, image: int, broken: Any = True) -> TransferRow:
    return TransferRow(cell=cell.key, source=source, image=image, broken=broken)


def distance_row(image: int, low: float, high: float | None, passes: int = 3, **changes: Any) -> DistanceRow:
    return DistanceRow(**{"model": "net", "norm": "l2"} | changes, image=image, low=low, high=high, passes=passes)


def holding(row: R, **values: Any) -> R:
    """The row with values that its class does not allow."""
    for name, value in values.items():
        object.__setattr__(row, name, value)
    return row


def timing(cell: Cell, work: str, seconds: float = 1.0) -> TimingRow:
    return TimingRow(cell=cell.key, work=work, images=0, seconds=seconds)


def identity_of(*cells: Cell, **changes: Any) -> RunIdentity:
    values: dict[str, Any] = {
        "weights": {cell.model: "ab" * 32 for cell in cells},
        "dataset": "digits",
        "images": 5,
        "subset": "0123456789ab" * 5 + "0123",
        "preprocessing": "none",
        "seed": 0,
        "device": "cpu",
        "explained": None,
        "evidence": "off",
        "distances": False,
        "independent_cells": False,
        "attack_backend": (False, "auto", "fp32"),
        "classes": 10,
        "version": "0.3.0",
        "torch": "2.9.0",
        "plugins": {},
    }
    return RunIdentity(cells=cells, **values | changes)
