"""The table a reader wants at the end of a run."""

import pandas as pd
from rich.table import Table
from rich.text import Text

from robustbench_bcos.attacks import UNTARGETED
from robustbench_bcos.core.statistics import wilson
from robustbench_bcos.core.text import counted
from robustbench_bcos.reports.marks import marked
from robustbench_bcos.reports.reasons import trust_notes
from robustbench_bcos.reports.run_folder import RunFolder
from robustbench_bcos.reports.tables import attacks_of, column_names, strongest, wide_table

TOO_FEW_DRAWS = "too few draws"
"""In place of a share that is 0 whatever the network does."""


def accuracy_table(run: RunFolder) -> Table:
    """Models as rows; clean and robust accuracy in percent over their 95 % intervals; the best of a column in bold."""
    records = run.records
    images = f"{counted(run.identity.images, 'image')} of {run.identity.dataset}"
    title = f"Robust accuracy in % under {attacks_of(records)} on {images}"
    table = Table(title=Text(title), title_justify="left", pad_edge=False)
    table.add_column("model", overflow="fold")
    lines = wide_table(records, lambda record: marked(percent(record["robust_accuracy_worst"]), record["trust"]))
    intervals = wide_table(records, lambda record: interval_text(record["worst_correct"], record["images"]))
    winners = best_models(records)
    for column in ("clean", *lines.columns):
        # Folded where the terminal is narrow: Rich would cut digits off.
        table.add_column(Text(column), justify="right", overflow="fold")
    for model, first in records.groupby("model", sort=False).first().iterrows():
        clean = Text(percent(first["clean_accuracy"]), style=_style(first["clean_accuracy"], records["clean_accuracy"]))
        cells = [_stack(clean, interval_text(first["clean_correct"], first["images"]))]
        for column in lines.columns:
            value = Text(str(lines.at[model, column]), style="bold" if model in winners[column] else "")
            cells.append(_stack(value, str(intervals.at[model, column])))
        table.add_row(Text(str(model)), *cells)
    return table


def smoothed_table(smoothed: pd.DataFrame) -> Table:
    """What is certified within each radius, of networks that are not those of the table above."""
    title = "Certified in % of the smoothed networks, not of those above; radii without are left out"
    table = Table(title=title, title_justify="left", pad_edge=False)
    rows = smoothed.assign(radius=smoothed["norm"] + " " + smoothed["eps"]).sort_values("radius_l2", kind="stable")
    radii = list(rows.loc[rows["smoothed_certified"] > 0, "radius"].unique())
    for column in ("smoothed network", "certificate", "sigma", "abstained", *radii):
        table.add_column(Text(column), overflow="fold")
    # A network of which nothing is certified is a row, too.
    for _, found in rows.groupby(["model", "certificate", "sigma"], sort=False):
        first, by_radius = found.iloc[0], found.set_index("radius").loc[radii]
        abstained = first["smoothed_abstained"]
        cells = [first["model"], first["certificate"], f"{first['sigma']:g}"]
        cells.append("" if pd.isna(abstained) else percent(abstained))
        certified = zip(by_radius["smoothed_certified"], by_radius["certifiable"], strict=True)
        cells += [percent(share) if certifiable else TOO_FEW_DRAWS for share, certifiable in certified]
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def reading_notes(run: RunFolder) -> list[str]:
    """What must be known to read the table, a sentence or two each."""
    records = run.records
    notes = [f"Attack: {attacks_of(records, steps=True)}."]
    criteria = [criterion for criterion in records["criterion"].unique() if criterion != UNTARGETED]
    if criteria:
        notes.append(f"Criterion: {', '.join(criteria)}. Robust is whatever does not meet it, other errors included.")
    for draws, rows in records[records["draws"] > 1].groupby("draws"):
        models = ", ".join(rows["model"].unique())
        notes.append(f"Draws: {draws}. What is attacked of {models} is an average of these, which the attack knows.")
    notes.append("Below each number its 95 % interval; bold is the best of its column.")
    notes += assumptions(records)
    notes += trust_notes(run)
    notes += run.image_notes
    if (records["space"] == "encoded").any():
        notes.append("Space: encoded. The attack moved r and 1-r apart, which no picture does: not a robust accuracy.")
    return notes


def assumptions(records: pd.DataFrame) -> list[str]:
    """What had to be assumed of models that come from weights files."""
    said = records.drop_duplicates("model").set_index("model")["assumed"]
    return [
        f"Assumed of {model}, since its weights do not say it: {assumed}. --argument and --encoding state it."
        for model, assumed in said.items()
        if assumed
    ]


def best_models(records: pd.DataFrame) -> dict[str, set[str]]:
    """Models with the highest worst-case accuracy of each column, at the most steps; none whose number is suspect."""
    columns = column_names(records)
    rows = strongest(records).assign(column=columns)
    top = rows.groupby("column")["robust_accuracy_worst"].transform("max")
    # A suspect number still counts here: of what lies below it, nothing is known to be the best.
    winners = rows[(rows["robust_accuracy_worst"] == top) & (top > 0) & (rows["trust"] != "suspect")]
    found = {column: set(winning["model"]) for column, winning in winners.groupby("column")}
    return {column: found.get(column, set()) for column in columns.unique()}


def _style(value: float, column: pd.Series) -> str:
    return "bold" if value == column.max() else ""


def percent(fraction: float) -> str:
    """A fraction as it is shown, without its sign."""
    return f"{100 * fraction:.1f}"


def interval_text(correct: int, total: int) -> str:
    """The 95 % interval of a fraction, in percent."""
    interval = wilson(int(correct), int(total))
    return f"{percent(interval.low)}–{percent(interval.high)}"


def _stack(value: Text, interval: str) -> Text:
    return Text.assemble(value, "\n", (interval, "dim")) if value.plain else value
