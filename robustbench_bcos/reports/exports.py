"""Files written from the store, each replaced as a whole."""

from pathlib import Path

from robustbench_bcos.bench.records import make_curves
from robustbench_bcos.bench.run_files import RESULTS
from robustbench_bcos.core.disk import write_text
from robustbench_bcos.reports.marks import marked, trust_of
from robustbench_bcos.reports.run_folder import RunFolder
from robustbench_bcos.reports.spreadsheet import csv_of
from robustbench_bcos.reports.tables import wide_table


def export(run: RunFolder, folder: Path | None = None) -> list[Path]:
    """Write ``results.csv``, ``timings.csv`` and, for each norm of the run, ``table_<norm>.csv``, by default into it.

    ``images.csv`` has every image of every cell. Where maps were compared, ``explanations.csv`` has every comparison of
    every image. Where numbers were checked, ``evidence.csv`` has the outcome of each check, and ``transfer.csv`` how
    well adversarial examples transfer between models. Where distances were measured, ``distances.csv`` has every
    image's, ``curves.csv`` their median and area. Where explanations were attacked, ``fooled.csv`` has what became of
    them, and ``fooled_images.csv`` every comparison of every image. Where smoothed networks were certified,
    ``smoothed.csv`` has what holds within each radius, and ``smoothed_images.csv`` each image's.

    Fractions are ``repr`` floats; what could not be measured is empty. A number of a wide table has its mark, and the
    column ``trust`` says what that means. Times are in ``timings.csv`` alone, so that the other files depend on nothing
    but the configuration.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    tables = {RESULTS: csv_of(run.records), "timings.csv": csv_of(run.timings)}
    if len(run.images):
        tables["images.csv"] = csv_of(run.images)
    if len(run.similarities):
        tables["explanations.csv"] = csv_of(run.similarities)
    if len(run.evidence):
        tables["evidence.csv"] = csv_of(run.evidence)
    if len(run.transfers):
        tables["transfer.csv"] = csv_of(run.transfers)
    if len(run.distances):
        tables["distances.csv"] = csv_of(run.distances)
        tables["curves.csv"] = csv_of(make_curves(run.distances, run.records))
    if len(run.fooled):
        tables |= {"fooled.csv": csv_of(run.fooled), "fooled_images.csv": csv_of(run.fooled_images)}
    if len(run.smoothed):
        tables |= {"smoothed.csv": csv_of(run.smoothed), "smoothed_images.csv": csv_of(run.smoothed_images)}
    for norm, records in run.records.groupby("norm", sort=False):
        wide = wide_table(records, lambda record: marked(repr(float(record["robust_accuracy_worst"])), record["trust"]))
        by_model = records.groupby("model")
        wide.insert(0, "clean", by_model["clean_accuracy"].first())
        wide["trust"] = by_model["trust"].agg(trust_of)
        tables[f"table_{norm}.csv"] = csv_of(wide, index_label="model")
    for name, text in tables.items():
        write_text((folder or run.folder) / name, text)
    return [(folder or run.folder) / name for name in tables]
