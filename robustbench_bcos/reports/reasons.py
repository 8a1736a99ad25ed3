"""Why numbers of a run can be trusted or not, in sentences."""

from dataclasses import dataclass

import pandas as pd

from robustbench_bcos.bench.evidence.trust import UNFINISHED
from robustbench_bcos.reports.run_folder import RunFolder

MARK = "?"
"""Stands behind a number that is suspect."""

REPAIR = "Further searches fooled images that the attacks had not, and these count as fallen: "


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A check that undermines rows of a model."""

    model: str
    check: str
    rows: int
    """Rows of the model that it undermines."""
    sentence: str
    """What was found, in the row where it was found most."""
    link: str


def reasons(run: RunFolder) -> list[Reason]:
    """What undermines the run's numbers, by model and check."""
    found = []
    for (model, check), rows in _outcomes(run, "undermined").groupby(["model", "check"], sort=False):
        most = rows.sort_values("against", ascending=False, kind="stable").iloc[0]
        found.append(
            Reason(
                model=str(model),
                check=str(check),
                rows=len(rows),
                sentence=str(most["sentence"]),
                link=str(most["link"]),
            )
        )
    return found


def trust_notes(run: RunFolder) -> list[str]:
    """What must be known of the run's trust, a line each."""
    counts = {trust: int((run.records["trust"] == trust).sum()) for trust in ("suspect", "unchecked", "sound")}
    if (run.records["reasons"] == UNFINISHED).any():
        return ["Trust: unchecked. The evidence is not finished: repeat the command that made this run."]
    if counts["unchecked"] == len(run.records):
        return ["Trust: unchecked. No evidence for or against these numbers has been gathered."]
    if counts["suspect"]:
        suspect, sound = counts["suspect"], counts["sound"]
        notes = [f"Trust: {suspect} of {len(run.records)} rows are suspect and marked {MARK}, {sound} are sound."]
    else:
        notes = ["Trust: sound. Nothing was found that undermines these numbers."]
    for reason in reasons(run):
        times = f" ({reason.rows} rows)" if reason.rows > 1 else ""
        notes.append(f"  {reason.model}: {reason.check}: {reason.sentence}{times}; see {reason.link}")
    return [*notes, *_repairs(run), *_undone(run)]


def trust_of(records: pd.DataFrame) -> str:
    """The trust of several rows in a few words."""
    counts = records["trust"].value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    return ", ".join(f"{count} {trust}" for trust, count in counts.items())


def marked(record: pd.Series, text: str) -> str:
    """A number of a row, marked where the row is suspect."""
    return f"{text}{MARK}" if record["trust"] == "suspect" else text


def _repairs(run: RunFolder) -> list[str]:
    changed = run.records[run.records["worst_correct"] < run.records["robust_correct"]]
    if changed.empty:
        return []
    most = (changed["robust_correct"] - changed["worst_correct"]).groupby(changed["model"], sort=False).max()
    return [REPAIR + ", ".join(f"{model} {count}" for model, count in most.items()) + "."]


def _undone(run: RunFolder) -> list[str]:
    rows = _outcomes(run, "not done").drop_duplicates(["check", "sentence"])
    return [f"{row['check']} {row['sentence']}." for row in rows.to_dict("records")]


def _outcomes(run: RunFolder, status: str) -> pd.DataFrame:
    models = dict(zip(run.cells, run.records["model"], strict=True))
    rows = run.evidence[run.evidence["status"] == status] if len(run.evidence) else run.evidence
    return (
        rows.assign(model=rows["cell"].map(models))
        if len(rows)
        else pd.DataFrame(columns=["model", "check", "sentence"])
    )
