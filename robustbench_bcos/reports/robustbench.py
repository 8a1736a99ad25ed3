"""RobustBench's model files (https://github.com/RobustBench/robustbench, ``model_info``), written from a run.

Numbers are strings in percent, epsilons stand as they were written, and a file lies in ``DATASET/THREAT``, as there.
Only cells of AutoAttack are written, because ``autoattack_acc`` is what those files state.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from robustbench_bcos.attacks import ATTACKS, NORMS, UNTARGETED
from robustbench_bcos.bench.evidence.trust import without
from robustbench_bcos.core.disk import made_below, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.text import counted
from robustbench_bcos.model_zoo.cards import Card, Paper, Published, Zoo
from robustbench_bcos.reports.marks import MEANINGS, mark_notes
from robustbench_bcos.reports.run_folder import RunFolder

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
    rows = [{str(key): value for key, value in row.items()} for row in run.records.to_dict(orient="records")]
    reasons = [_left_out(row) for row in rows]
    written = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
    notes = [f"{_rows(count)} {reason}" for reason, count in Counter(filter(None, reasons)).items()]
    if not written:
        raise RequestError(
            f"run {run.folder} has nothing for RobustBench's files, which state the accuracy under AutoAttack "
            f"({' '.join(notes) or 'no cell is complete.'}): run with --attack {' or '.join(_known(ATTACKS))}"
        )
    files = []
    places = [_place(row, written) for row in written]
    # As systems see them to which A and a are one file.
    times = Counter((norm, name.casefold()) for norm, name in places)
    for row, (norm, name) in zip(written, places, strict=True):
        unique = f"{name}_{_digest(row)}" if times[norm, name.casefold()] > 1 else name
        files.append(made_below(folder, _file_name(row["dataset"]), norm) / f"{unique}.json")
        write_text(files[-1], json.dumps(model_info(row, _card(row, zoo)), indent=2) + "\n")
    return files, [*notes, *mark_notes((row["model"], row) for row in written)]


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
        ATTACKS[row["attack"]].leaderboard: _percent(row["robust_accuracy"]),
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
        f"Measured with robustbench_bcos {row['version']} on {counted(row['images'], 'image')} of {row['dataset']} "
        f"(subset {row['subset']}), weights {row['weights_sha256'][:12]}." + "".join(_marks(row))
    )


def _marks(row: Mapping[str, Any]) -> list[str]:
    """What a mark would say of the number, which has none here: it is read as a number."""
    why = f" ({row['reasons']})" if row["reasons"] else ""
    return [f" {MEANINGS[row['trust']].capitalize()}{why}."] if row["trust"] in MEANINGS else []


def _card(row: Mapping[str, Any], zoo: Zoo) -> Card | None:
    """The card of a row's model; a model of that name with other weights or another architecture has none."""
    entry = zoo.entries.get(row["model"])
    if entry is None or entry.card.architecture != row["architecture"]:
        return None
    return entry.card if row["weights_sha256"].startswith(entry.card.weights.sha256 or "") else None


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")


def _place(row: Mapping[str, Any], written: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """RobustBench's name of the threat and what a file may be called, which is not that of its row alone."""
    radii = {other["eps"] for other in written if (other["model"], other["norm"]) == (row["model"], row["norm"])}
    name = _file_name(row["model"]) + (f"_{_file_name(row['eps'])}" if len(radii) > 1 else "")
    return NORMS[row["norm"]].leaderboard, name


def _digest(row: Mapping[str, Any]) -> str:
    """What tells names apart that a file cannot hold."""
    return sha256(f"{row['model']} {row['eps']}".encode()).hexdigest()[:8]


def _left_out(row: Mapping[str, Any]) -> str:
    """Why RobustBench has no place for a row; empty where it has one."""
    if row["attack"] not in _known(ATTACKS):
        return f"of other attacks ({row['attack']}) and left out."
    if row["space"] != "image":
        return "of attacks on the encoding and left out: RobustBench's threats are to images."
    if row["norm"] not in _known(NORMS):
        return f"of norm {row['norm']} and left out: RobustBench has {', '.join(_known(NORMS))}."
    if row["criterion"] != UNTARGETED:
        return f"of criterion {row['criterion']} and left out: RobustBench counts any wrong class."
    lacking = [reason for reason in row["reasons"].split("; ") if reason.startswith(without(row["attack"]))]
    return f"of {', '.join(lacking)} and left out: that is another attack." if lacking else ""


def _known(registry: Registry[Any]) -> list[str]:
    """Norms or attacks that RobustBench has a name for."""
    return [name for name in registry if registry[name].leaderboard]


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"
