"""The table of a run as papers print it: models as rows, epsilons as columns, few steps before many in a cell."""

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.text import counted
from robustbench_bcos.reports.comparison import Comparison, row_notes
from robustbench_bcos.reports.console import percent
from robustbench_bcos.reports.marks import legend, marked, trust_of
from robustbench_bcos.reports.run_folder import RunFolder
from robustbench_bcos.reports.tables import attacks_of, wide_table


def paper_table(run: RunFolder, *, fractions: bool = False) -> Comparison:
    """Clean and worst-case robust accuracies of every model and threat, in per cent, with their marks.

    Args:
        run: what was measured.
        fractions: whether numbers are fractions with all their digits and the trust has a column, as in a CSV.

    Raises:
        RequestError: no cell is complete.
    """
    records = run.records
    if records.empty:
        raise RequestError(f"run {run.folder} has no complete cell: repeat the command that made it to finish")

    def written(fraction: float) -> str:
        return repr(float(fraction)) if fractions else percent(fraction)

    table = wide_table(records, lambda row: marked(written(row["robust_accuracy_worst"]), row["trust"]))
    by_model = records.groupby("model")
    table.insert(0, "clean", by_model["clean_accuracy"].first().map(written))
    if fractions:
        table["trust"] = by_model["trust"].agg(trust_of)
    images = f"{counted(run.identity.images, 'image')} of {run.identity.dataset}"
    left_out = [f"{run.missing} of {len(run.identity.cells)} cells are not complete and are left out."]
    notes = [
        f"Accuracy in % on {images}; worst case over everything tried under {attacks_of(records, steps=True)}.",
        *(left_out if run.missing else []),
        *row_notes(records, "model"),
        *run.image_notes,
    ]
    return Comparison(table.reset_index(), notes, legend(records["trust"]))
