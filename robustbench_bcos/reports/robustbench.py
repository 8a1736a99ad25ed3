"""RobustBench's model files (https://github.com/RobustBench/robustbench, ``model_info``), written from a run.

Numbers are strings in percent, epsilons stand as they were written, and a file lies in ``DATASET/THREAT``, as there.
Only cells of AutoAttack are written, because ``autoattack_acc`` is what those files state.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_bcos.core.disk import made, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.model_zoo.cards import Card, Paper, Published, Zoo
from robustbench_bcos.reports.run_folder import RunFolder

ATTACK = "autoattack"
THREATS = {"l2": "L2", "linf": "Linf"}

UNKNOWN_VENUE = "N/A"
"""What RobustBench writes and looks for; of other facts that are missing it has an empty text or null."""


def export_robustbench(run: RunFolder, folder: Path, zoo: Zoo) -> tuple[list[Path], list[str]]:
    """Write a file for each model and cell of AutoAttack; gives the files, and what was left out.

    Args:
        run: what was measured.
        folder: where the files go, in sub-folders by dataset and threat.
        zoo: whose cards say where models come from.

    Raises:
        RequestError: the run has no such cell, or the folder cannot be written.
    """
    records = run.records
    of_attack, in_image = records["attack"] == ATTACK, records["space"] == "image"
    # Without FAB it is not the standard ensemble, whose accuracy the files state.
    whole = ~records["options"].str.contains("fab=False", regex=False)
    written = records[of_attack & in_image & whole]
    partial = records[of_attack & in_image & ~whole]
    notes = list(_left_out(records[~of_attack], records[of_attack & ~in_image], None if partial.empty else partial))
    if written.empty:
        raise RequestError(
            f"run {run.folder} has nothing for RobustBench's files, which state the accuracy under AutoAttack "
            f"({' '.join(notes) or 'no cell is complete.'}): run with --attack autoattack"
        )
    files = []
    for row in [dict(zip(written.columns, values, strict=True)) for values in written.itertuples(index=False)]:
        same = written[(written["model"] == row["model"]) & (written["norm"] == row["norm"])]
        place = made(folder / _file_name(row["dataset"]) / THREATS[row["norm"]])
        name = _file_name(row["model"]) + (f"_{_file_name(row['eps'])}" if same["eps"].nunique() > 1 else "")
        files.append(place / f"{name}.json")
        write_text(files[-1], json.dumps(model_info(row, _card(row, zoo)), indent=2) + "\n")
    return files, notes


def model_info(row: Mapping[str, Any], card: Card | None) -> dict[str, Any]:
    """The content of a file: RobustBench's fields, of which those that mean something by being there may be missing.

    Args:
        row: a row of results.
        card: the model's, if it has one.
    """
    paper, published = (card and card.paper) or Paper(), (card and card.published) or Published()
    info = {
        "link": paper.link,
        "name": paper.title or row["model"],
        "authors": paper.authors,
        "additional_data": paper.additional_data,
        "number_forward_passes": 1,
        "dataset": row["dataset"],
        "venue": paper.venue or UNKNOWN_VENUE,
        "architecture": row["architecture"],
        "eps": row["eps"],
        "clean_acc": _percent(row["clean_accuracy"]),
        "reported": _reported(row, published),
        "autoattack_acc": _percent(row["robust_accuracy"]),
        "footnote": _footnote(row),
    }
    if row["worst_correct"] < row["robust_correct"]:
        # Their name for the best attack that is known, wherever it comes from.
        info["external"] = _percent(row["robust_accuracy_worst"])
    if row["trust"] != "unchecked":
        info["unreliable"] = row["trust"] == "suspect"
    return info


def _percent(fraction: float) -> str:
    return str(round(100 * fraction, 2))


def _reported(row: Mapping[str, Any], published: Published) -> str:
    for threat, accuracy in published.robust.items():
        norm, _, eps = threat.partition(" ")
        if norm == row["norm"] and Quantity.of(eps).value == row["epsilon"]:
            return str(accuracy)
    return ""


def _footnote(row: Mapping[str, Any]) -> str:
    return (
        f"Measured with robustbench_bcos {row['version']} on {row['images']} images of {row['dataset']} "
        f"(subset {row['subset']}), weights {row['weights_sha256'][:12]}."
    )


def _card(row: Mapping[str, Any], zoo: Zoo) -> Card | None:
    """The card of a row's model; a model of that name with other weights or another architecture has none."""
    entry = zoo.entries.get(row["model"])
    if entry is None or entry.card.architecture != row["architecture"]:
        return None
    return entry.card if row["weights_sha256"].startswith(entry.card.weights.sha256 or "") else None


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")


def _left_out(others: pd.DataFrame, encoded: pd.DataFrame, incomplete: pd.DataFrame | None) -> Iterator[str]:
    if len(others):
        names = ", ".join(sorted(others["attack"].unique()))
        yield f"{_rows(others)} of other attacks ({names}) and left out."
    if len(encoded):
        yield f"{_rows(encoded)} of attacks on the encoding and left out: RobustBench's threats are to images."
    if incomplete is not None and (incomplete["attack"] == ATTACK).any():
        yield "AutoAttack was run without FAB, because torchattacks was not installed, and is left out."


def _rows(rows: pd.DataFrame) -> str:
    return "1 row is" if len(rows) == 1 else f"{len(rows)} rows are"
