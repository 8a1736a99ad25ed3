"""Which figures a run has, and what each shows in words."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from robustbench_bcos.attacks import map_goal
from robustbench_bcos.bench.pictures import Picture
from robustbench_bcos.bench.records import make_curves
from robustbench_bcos.bench.rows import PictureRow
from robustbench_bcos.core.disk import made_below, slug
from robustbench_bcos.reports.curves import (
    BARS,
    accuracy_over_distance,
    accuracy_over_epsilon,
    accuracy_over_steps,
    fooled_over_epsilon,
    over_b,
    similarity_over_epsilon,
    transfer_matrix,
)
from robustbench_bcos.reports.marks import legend, marked
from robustbench_bcos.reports.panels import attack_panel, noise_panel
from robustbench_bcos.reports.run_folder import RunFolder
from robustbench_bcos.reports.style import drawn, write_figure
from robustbench_bcos.reports.tables import attack_texts, strongest, variants

SAID = {"attack": "attacked", "noise": "noise", "other": "other image"}
"""Comparisons in few words."""

COLUMNS = 6
"""Images in a panel."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportFigure:
    """A figure and the text that stands for it where it cannot be seen."""

    name: str
    figure: Figure | None
    """``None`` once it is in files, so that a report never holds all its figures in memory."""
    caption: str
    description: str
    """What it shows, in numbers where it can."""
    model: str | None = None
    """The model it is about, or ``None`` for all."""
    title: str = ""
    """What to unfold on the page, where it is one of many of its model."""
    on_page: bool = True
    """Whether it is part of the page; panels of fewer steps than the most are files alone."""
    files: tuple[Path, ...] = ()
    image: bytes = b""
    """PNG for the page, once it is drawn."""


def write_figures(
    run: RunFolder, images: Sequence[int] = (), formats: Sequence[str] = ("png",), folder: Path | None = None
) -> list[ReportFigure]:
    """Draw everything the run has the numbers for, into a folder ``figures``.

    Args:
        run: what was measured.
        images: dataset indices for the panels; by default some that were broken and some that were not.
        formats: of the files of each figure.
        folder: which ``figures`` is in; by default the run's.

    Raises:
        RequestError: the disk is full.
    """
    folder = folder or run.folder
    return [_write(figure, folder, formats) for figure in draw(run, images)]


def draw(run: RunFolder, images: Sequence[int] = ()) -> Iterator[ReportFigure]:
    """All figures of a run, curves first."""
    if len(run.records):
        yield from _curves(run)
        yield from _distances(run)
        yield from _transfer_matrices(run)
        yield from _noise_panels(run, images)
        yield from _attack_panels(run, images)
    yield from _fooled(run)


def _write(found: ReportFigure, folder: Path, formats: Sequence[str]) -> ReportFigure:
    assert found.figure is not None
    files = write_figure(found.figure, made_below(folder, "figures"), found.name, formats)
    image = b""
    if found.on_page:
        png = [file for file in files if file.suffix == ".png"]
        image = png[0].read_bytes() if png else drawn(found.figure, "png")
    return replace(found, figure=None, files=tuple(files), image=image)


def chosen(rows: Sequence[PictureRow], images: Sequence[int] = ()) -> list[Picture]:
    """Pictures for a panel: those asked for, or as many broken as robust ones, in the order of the dataset.

    Where there are too few of one kind, the other fills the places, and then images misclassified before any attack.
    """
    if images:
        by_image = {row.picture.image: row.picture for row in rows}
        return [by_image[image] for image in images]
    half = COLUMNS // 2
    broken = [row.picture for row in rows if row.broken]
    robust = [row.picture for row in rows if not row.broken and not row.picture.wrong_before]
    wrong = [row.picture for row in rows if row.picture.wrong_before]
    filled = [*broken[:half], *robust[:half], *broken[half:], *robust[half:], *wrong][:COLUMNS]
    return sorted(filled, key=lambda picture: picture.image)


def _curves(run: RunFolder) -> Iterator[ReportFigure]:
    for variant, rows in variants(run.records.assign(cell=run.cells)):
        yield from _named(run, variant, _curves_of(run, variant, rows))


def _named(run: RunFolder, variant: str, found: Iterable[ReportFigure]) -> Iterator[ReportFigure]:
    """Figures that say themselves how images were attacked, where the run attacked in several ways under a norm."""
    several = len(variants(run.records)) > run.records["norm"].nunique()
    for one in found:
        if several and one.figure is not None:
            one.figure.suptitle(variant, fontsize=8)
        yield one


def _curves_of(run: RunFolder, variant: str, rows: pd.DataFrame) -> Iterator[ReportFigure]:
    at_most_steps = strongest(rows)
    suffix = slug(variant)
    yield ReportFigure(
        name=f"accuracy_over_epsilon_{suffix}",
        figure=accuracy_over_epsilon(at_most_steps),
        caption=f"Robust accuracy over epsilon, {variant}.{_bars(at_most_steps)}{_marks(at_most_steps['trust'])}",
        description=_accuracies(at_most_steps, "eps"),
    )
    for eps, same in rows.groupby("eps", sort=False):
        if same["steps"].nunique() > 1:
            yield ReportFigure(
                name=f"accuracy_over_steps_{suffix}_{slug(str(eps))}",
                figure=accuracy_over_steps(same),
                caption=(
                    f"Robust accuracy over steps, {variant}, epsilon {eps}. More steps should change little."
                    f"{_bars(same)}{_marks(same['trust'])}"
                ),
                description=_accuracies(same, "steps"),
            )
    if (at_most_steps["explained_images"] > 0).any():
        yield ReportFigure(
            name=f"explanation_similarity_{suffix}",
            figure=similarity_over_epsilon(at_most_steps, run.similarities),
            caption=(
                f"How far contribution maps for the true class move, {variant}: cosine with the clean map. "
                "Bands are 95 % intervals of the means. An attack moved them only as far as its line lies below that "
                "of noise of the same size; a model whose maps hardly differ between images of a class has little to "
                "lose."
                f"{_marks(at_most_steps['trust'])}"
            ),
            description=_similarities(at_most_steps),
        )
    with_b = at_most_steps[at_most_steps["b"].notna()]
    if with_b["b"].nunique() > 1:
        yield ReportFigure(
            name=f"over_b_{suffix}",
            figure=over_b(with_b),
            caption=(
                f"The exponent B against robust accuracy and against similarity of explanations, {variant}. "
                "Points are models, lines their means at each B, whatever else the models differ in."
                f"{_marks(with_b['trust'])}"
            ),
            description="; ".join(
                marked("{model}: B {b:g}, {norm} {eps}, {robust_accuracy_worst:.1%}".format_map(row), row["trust"])
                for row in with_b.to_dict("records")
            ),
        )


def _distances(run: RunFolder) -> Iterator[ReportFigure]:
    if not len(run.distances):
        return
    curves = make_curves(run.distances, run.records)
    for norm, found in run.distances.groupby("norm", sort=False):
        shown = curves[curves["norm"] == norm].fillna({"median_distance": math.inf}).to_dict("records")
        trusts = {str(row["model"]): str(row["trust"]) for row in shown}
        yield ReportFigure(
            name=f"distances_{norm}",
            figure=accuracy_over_distance(found, trusts),
            caption=(
                f"Robust accuracy over every epsilon, {norm}: images that no perturbation of that size broke. "
                f"Bands, or bars where they would cover each other, are Wilson 95 % intervals.{_marks(trusts.values())}"
            ),
            description="; ".join(
                marked("{model}: median {median_distance:.4g}, area {area:.3f}".format_map(row), row["trust"])
                for row in shown
            ),
        )


def _transfer_matrices(run: RunFolder) -> Iterator[ReportFigure]:
    if not len(run.transfers):
        return
    for variant, rows in variants(run.records.assign(cell=run.cells)):
        yield from _named(run, variant, _transfers_of(run, variant, rows))


def _transfers_of(run: RunFolder, variant: str, rows: pd.DataFrame) -> Iterator[ReportFigure]:
    for eps, same in strongest(rows).groupby("eps", sort=False):
        shown = run.transfers[run.transfers["cell"].isin(same["cell"])]
        if len(shown):
            yield ReportFigure(
                name=f"transfer_{slug(variant)}_{slug(str(eps))}",
                figure=transfer_matrix(shown),
                caption=(
                    f"Share of {shown['images'].max()} images at most that candidates made on one model fool on "
                    f"another, {variant}, epsilon {eps}. On the diagonal a model's own."
                ),
                description="; ".join(
                    "{source} to {target}: {share:.0%}".format_map(row) for row in shown.to_dict("records")
                ),
            )


def _noise_panels(run: RunFolder, images: Sequence[int]) -> Iterator[ReportFigure]:
    records = run.records.assign(cell=run.cells)
    for variant, rows in variants(records):
        for eps, same in strongest(rows).groupby("eps", sort=False):
            by_model = {str(row["model"]): run.pictures[row["cell"]] for row in same.to_dict("records")}
            common = _common(list(by_model.values()), images)
            if common and len(by_model) > 1:
                panel = {model: chosen(found, common) for model, found in by_model.items()}
                yield ReportFigure(
                    name=f"changes_{slug(variant)}_{slug(str(eps))}",
                    figure=noise_panel(
                        panel, run.class_names, f"What each model's attack changed: {variant}, epsilon {eps}"
                    ),
                    caption=f"The change of the same images by each model's attack, {variant}, epsilon {eps}, on one "
                    "scale.",
                    description="; ".join(f"{model}: {_fates(pictures)}" for model, pictures in panel.items()),
                )


def _attack_panels(run: RunFolder, images: Sequence[int]) -> Iterator[ReportFigure]:
    records = run.records.assign(cell=run.cells, attacked=attack_texts(run.records))
    at_most_steps = set(strongest(records)["cell"])
    rows = records.to_dict("records")
    for place, row in enumerate(rows, start=1):
        pictures = chosen(run.pictures[row["cell"]], images)
        if not pictures:
            continue
        model, explanation, attack = row["model"], row["explanation"], row["attacked"]
        space = ", encoded space: the first three channels are shown" if row["space"] == "encoded" else ""
        yield ReportFigure(
            name=f"panel_{place:03d}_{slug(model)}_{slug(row['norm'] + ' ' + row['eps'])}",
            figure=attack_panel(pictures, run.class_names, f"{model} · {attack} · {explanation}{space}"),
            caption=(
                f"{model} under {attack}{space}: pixels, explanations and contribution maps ({explanation}) of the "
                "class predicted, clean and attacked. The attacked image is the iterate of highest loss of the full "
                "attack."
            ),
            description=_fates(pictures),
            model=model,
            title=f"Images under {attack}",
            on_page=row["cell"] in at_most_steps,
        )


def _fooled(run: RunFolder) -> Iterator[ReportFigure]:
    """What attacks on explanations did: curves over epsilon, and panels of pictures whose prediction is the same."""
    if not len(run.fooled):
        return
    ways = dict(zip(run.cells, attack_texts(run.records.assign(eps="")), strict=True))
    for (goal, attack), rows in run.fooled.groupby(["goal", run.fooled["cell"].map(ways)], sort=False):
        images = run.fooled_images.loc[run.fooled_images["goal"] == map_goal(str(goal))]
        means = "; ".join(
            marked("{model}, {method}, at {eps}: {cosine_explanation:g}".format_map(row), row["trust"])
            for row in rows.to_dict("records")
        )
        yield ReportFigure(
            name=f"fooled_{slug(f'{goal} {attack}')}",
            figure=fooled_over_epsilon(rows, images),
            caption=(
                f"How far maps move while the prediction stays, {goal}, {attack}: cosine with the clean map. Beside it "
                "the same for the attack on the prediction, noise of the same size, and another image of the class. "
                "Bands are 95 % intervals of the means."
                f"{_marks(rows['trust'])}"
            ),
            description=means,
        )
    told = dict(zip(run.cells, attack_texts(run.records), strict=True))
    strongest_of = run.fooled.groupby(["model", "method", "goal"], sort=False)["epsilon"].idxmax()
    for place, row in enumerate(run.fooled.to_dict("records"), start=1):
        goal, way = map_goal(row["goal"]), f"{row['goal']} {told[row['cell']]}"
        rows_of_cell = run.fooled_pictures.get(row["cell"], ())
        pictures = [one.picture for one in rows_of_cell if (one.method, one.goal) == (row["method"], goal)][:COLUMNS]
        if pictures:
            yield ReportFigure(
                name=f"fooled_panel_{place:03d}_{slug(row['model'])}_{slug(way)}",
                figure=attack_panel(pictures, run.class_names, f"{row['model']} · {way} · {row['method']}"),
                caption=(
                    f"{row['model']} under {way}: the same prediction, another map ({row['method']}). Each attacked "
                    "image is the picture in 256 levels that the judge asked about."
                ),
                description=_fates(pictures),
                model=row["model"],
                title=f"Explanations under {way}, {row['method']}",
                on_page=place - 1 in set(strongest_of),
            )


def _bars(rows: pd.DataFrame) -> str:
    if rows["model"].nunique() > BARS:
        return " Intervals are in the table: those of so many models would cover each other."
    return " Bars are Wilson 95 % intervals; models are drawn side by side."


def _common(found: Sequence[Sequence[PictureRow]], images: Sequence[int]) -> list[int]:
    """Images that all models have a picture of."""
    if images:
        return list(images)
    shared = set.intersection(*({row.picture.image for row in rows} for rows in found))
    return sorted(shared)[:COLUMNS]


def _fates(pictures: Sequence[Picture]) -> str:
    return ", ".join(
        f"image {picture.image}: {picture.clean.prediction} to {picture.attacked.prediction}"
        for picture in pictures
        if picture.attacked is not None
    )


def _marks(trusts: Iterable[str]) -> str:
    """What the marks in a figure mean, as further sentences of its caption."""
    return "".join(f" {line}." for line in legend(trusts))


def _accuracies(rows: pd.DataFrame, over: str) -> str:
    texts = []
    for model, same in rows.groupby("model", sort=False):
        rows_of_model = same.to_dict("records")
        numbers = [marked(f"{row['robust_accuracy_worst']:.1%}", row["trust"]) for row in rows_of_model]
        points = [f"{number} at {row[over]}" for number, row in zip(numbers, rows_of_model, strict=True)]
        texts.append(f"{model}: {', '.join(points)}")
    return "; ".join(texts)


def _similarities(rows: pd.DataFrame) -> str:
    texts = []
    for row in rows.to_dict("records"):
        means = {word: row[f"explanation_cosine_true_{key}"] for key, word in SAID.items()}
        trusts = {SAID["attack"]: row["trust"]}
        known = [marked(f"{word} {mean:g}", trusts.get(word, "")) for word, mean in means.items() if pd.notna(mean)]
        texts += [f"{row['model']} at {row['eps']}: {', '.join(known)}"] if known else []
    return "; ".join(texts)
