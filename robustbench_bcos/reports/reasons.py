"""Why numbers of a run can be trusted or not, in sentences."""

from dataclasses import dataclass

import pandas as pd

from robustbench_bcos.bench.evidence.trust import UNFINISHED
from robustbench_bcos.reports.marks import trust_of
from robustbench_bcos.reports.run_folder import RunFolder

REPAIR = "Further searches broke images that the attacks had not; these count as broken: "


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
    trusts = list(run.records["trust"])
    said = [f"Trust: {trust_of(trusts)}."]
    if "suspect" in trusts:
        said.append("Suspect numbers are not to be quoted.")
    if (run.records["reasons"] == UNFINISHED).any():
        said.append("The evidence is not finished: repeat the command that made this run.")
    elif "unchecked" in trusts:
        said.append("No evidence for or against these numbers has been gathered.")
    if set(trusts) == {"sound"}:
        said.append("Nothing was found that undermines these numbers.")
    notes = [" ".join(said)]
    for reason in reasons(run):
        times = f" ({reason.rows} rows)" if reason.rows > 1 else ""
        notes.append(
            f"  {reason.model}: {reason.check}: {reason.sentence}{times}{f'; see {reason.link}' if reason.link else ''}"
        )
    return [*notes, *_repairs(run), *_undone(run)]


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
