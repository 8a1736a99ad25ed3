"""``report.html``: a run on one page, which needs no network and runs no script but its own.

Everything shown is escaped; scripts and styles are pinned by their hashes, so that nothing a name may contain is ever
executed.
"""

import json
import re
from base64 import b64encode
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustbench_bcos.attacks import map_goal
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import PAGE as PAGE_OF_CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCheck
from robustbench_bcos.core.disk import write_text
from robustbench_bcos.core.text import counted
from robustbench_bcos.reports.browser import browsable
from robustbench_bcos.reports.console import TOO_FEW_DRAWS, best_models, interval_text, percent, reading_notes
from robustbench_bcos.reports.figures import SAID, ReportFigure
from robustbench_bcos.reports.marks import marked, trust_of
from robustbench_bcos.reports.run_folder import RunFolder
from robustbench_bcos.reports.tables import attack_texts, attacks_of, column_names, strongest, wide_table

PAGE = "report.html"

SCRIPTS = ("sort.js", "browse.js", "fold.js")

MEASURE = "spearman"
"""The measure of fooled maps that the page shows; the others are in ``fooled.csv``."""

MOVED_SAID = {
    "explanation": "explanation attacked",
    "prediction": "prediction attacked",
    "noise": "noise",
    "other": "other image",
}
"""Comparisons in few words."""

ATTACKED = ("explanation", "prediction")
"""Comparisons that a better attack would change."""

GRAVITY = ("undermined", "repaired", "not done", "reported", "held")
"""Outcomes of a check, the gravest first."""


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """What a cell of a table shows, and what it is sorted by."""

    text: str
    value: str
    interval: str = ""
    kind: str = ""
    """``best`` of its column, or an answer that is to be seen: ``undermined``, ``suspect``."""


EMPTY = TableCell(text="", value="")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table, after its name."""

    name: str
    cells: list[TableCell]
    alarming: bool = False
    """Whether it is about a number that is not to be trusted."""
    link: str = ""
    """Where its name is explained, on the page."""


class Content(NamedTuple):
    """A table."""

    caption: str
    columns: list[str]
    rows: list[Row]


def write_page(run: RunFolder, figures: Sequence[ReportFigure], folder: Path | None = None) -> Path:
    """Write the page of a run, with these figures in it, by default into its folder.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    file = (folder or run.folder) / PAGE
    write_text(file, render(run, figures))
    return file


def render(run: RunFolder, figures: Sequence[ReportFigure]) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("robustbench_bcos.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style, script = _packaged("page.css"), "".join(map(_packaged, SCRIPTS))
    shown = [figure for figure in figures if figure.on_page]
    return environment.get_template("report.html.jinja").render(
        title=_title(run),
        lead=_lead(run),
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
        notes=[_linked(note) for note in reading_notes(run)],
        accuracies=accuracies(run.records),
        evidence=evidence(run) if len(run.evidence) else None,
        checks=[_check(CHECKS[name]) for name in CHECKS],
        similarities=similarities(run.records) if len(run.similarities) else None,
        fooled=fooled(run) if len(run.fooled) else None,
        smoothed=smoothed(run.smoothed) if len(run.smoothed) else None,
        figures=[_embedded(figure) for figure in shown if figure.model is None],
        browsable=browsable(run),
        models=[_model(run, model, shown) for model in run.records["model"].unique()],
        provenance=_provenance(run),
        classes=run.class_names,
        identity=json.dumps(run.identity.to_json(), indent=2),
        session=json.dumps(run.session, indent=2),
    )


def accuracies(records: pd.DataFrame) -> Content:
    """Clean and robust accuracies in percent, with their intervals, models as rows."""
    texts = wide_table(records, lambda record: marked(percent(record["robust_accuracy_worst"]), record["trust"]))
    intervals = wide_table(records, lambda record: interval_text(record["worst_correct"], record["images"]))
    values = wide_table(strongest(records), lambda record: repr(float(record["robust_accuracy_worst"])))
    winners = best_models(records)
    rows = []
    for model, first in records.groupby("model", sort=False).first().iterrows():
        clean = first["clean_accuracy"]
        same = records[records["model"] == model]
        suspect = bool((same["trust"] == "suspect").any())
        trust = trust_of(same["trust"])
        cells = [
            # Beside the name, where no narrow window hides it.
            TableCell(text=trust, value=trust, kind="suspect" if suspect else ""),
            TableCell(
                text=percent(clean),
                value=repr(float(clean)),
                interval=interval_text(first["clean_correct"], first["images"]),
                kind="best" if clean == records["clean_accuracy"].max() else "",
            ),
        ]
        for column in texts.columns:
            text, interval, value = (str(table.at[model, column]) for table in (texts, intervals, values))
            best = "best" if model in winners[column] else ""
            cells.append(TableCell(text=text, value=value, interval=interval, kind=best))
        rows.append(Row(name=str(model), cells=cells, alarming=suspect))
    return Content(
        "Accuracy in percent of the images",
        ["model", "trust", "clean", *texts.columns],
        rows,
    )


def evidence(run: RunFolder) -> Content:
    """What each check found, over all rows of each model: how many it undermines or repairs, and the most it found.

    What undermines a number comes first.
    """
    models = dict(zip(run.cells, run.records["model"], strict=True))
    gravest: dict[str, dict[str, Mapping[Hashable, Any]]] = {}
    for outcome in run.evidence.to_dict("records"):
        of_check, model = gravest.setdefault(outcome["check"], {}), models[outcome["cell"]]
        of_check[model] = min(of_check.get(model, outcome), outcome, key=_gravity)
    columns = list(dict.fromkeys(models[cell] for cell in run.evidence["cell"]))
    rows = []
    for check, by_model in sorted(gravest.items(), key=lambda item: min(map(_gravity, item[1].values()))[0]):
        cells = [_answer(by_model[name]) if name in by_model else EMPTY for name in columns]
        alarming = any(cell.kind == "undermined" for cell in cells)
        rows.append(Row(name=check, cells=cells, alarming=alarming, link=f"#check-{check}" if check in CHECKS else ""))
    return Content("What each check found: images against the number, of those examined", ["check", *columns], rows)


def _gravity(outcome: Mapping[Hashable, Any]) -> tuple[int, int, int]:
    """The gravest first, and of equal ones that of the most images."""
    return GRAVITY.index(outcome["status"]), -outcome["against"], -outcome["examined"]


def _answer(gravest: Mapping[Hashable, Any]) -> TableCell:
    """What a check found of a model."""
    if gravest["status"] == "not done":
        return TableCell(text="not done", value="")
    if not gravest["examined"]:
        return TableCell(text="none to examine", value="")
    return TableCell(
        text=f"{gravest['against']} of {gravest['examined']}",
        value=str(gravest["against"]),
        interval=str(gravest["status"]),
        kind="undermined" if gravest["status"] == "undermined" else "",
    )


def similarities(records: pd.DataFrame) -> Content:
    """Similarity of explanations at the most steps: two measures beside their controls, and changed predictions."""
    measures = ("cosine", "ssim")
    columns = ["model", "threat", "explained by", "images", "changed"]
    columns += [f"{measure}: {control}" for measure in measures for control in SAID.values()]
    rows = []
    for record in strongest(records).assign(column=column_names(records)).to_dict("records"):
        names = [f"explanation_{measure}_true_{comparison}" for measure in measures for comparison in SAID]
        cells = [
            # Sorted as text: eps as it is written would put 16/255 before 8/255.
            TableCell(text=record["column"], value=f"{record['norm']} {record['epsilon']:014.9f} {record['column']}"),
            TableCell(text=record["explanation"], value=record["explanation"]),
            TableCell(text=str(record["explained_images"]), value=str(record["explained_images"])),
            _number(record["explanation_changed_attack"], record["trust"]),
            *(_number(record[name], record["trust"] if name.endswith("_attack") else "") for name in names),
        ]
        rows.append(Row(name=record["model"], cells=cells, alarming=record["trust"] == "suspect"))
    return Content(
        "Mean similarity of contribution maps for the true class (1 is equal), and the share of explained images whose "
        f"prediction the attack changed{_alone(records[f'explanation_{measures[0]}_true_other'])}",
        columns,
        rows,
    )


def fooled(run: RunFolder) -> Content:
    """What attacks on explanations did: shares, and a measure beside its controls."""
    told = dict(zip(run.cells, attack_texts(run.records), strict=True))
    columns = ["model", "maps", "goal", "threat", "images", "prediction kept", "fooled", "withstood"]
    columns += [f"{MEASURE}: {said}" for said in MOVED_SAID.values()]
    rows = []
    for record in run.fooled.to_dict("records"):
        threat = told[record["cell"]]
        cells = [
            TableCell(text=record["method"], value=record["method"]),
            TableCell(text=map_goal(record["goal"]), value=map_goal(record["goal"])),
            # Sorted as text: eps as it is written would put 16/255 before 8/255.
            TableCell(text=threat, value=f"{record['norm']} {record['epsilon']:014.9f} {threat}"),
            TableCell(text=str(record["images"]), value=str(record["images"])),
            _number(record["kept"]),
            _number(record["fooled"], record["trust"]),
            _number(record["withstood_worst"], record["trust"]),
            *(_number(record[f"{MEASURE}_{name}"], record["trust"] * (name in ATTACKED)) for name in MOVED_SAID),
        ]
        rows.append(Row(name=record["model"], cells=cells, alarming=record["trust"] == "suspect"))
    return Content(
        "Shares of images whose explanation was attacked, and mean similarity of maps for the class that is kept "
        f"(1 is equal){_alone(run.fooled[f'{MEASURE}_other'])}",
        columns,
        rows,
    )


def _alone(others: pd.Series) -> str:
    """Why there is no similarity to another image of the class, if there is none."""
    return "" if others.notna().any() else ". No two of the explained images are of one class: explain more"


def smoothed(records: pd.DataFrame) -> Content:
    """What is certified of smoothed networks, radius by radius."""
    rows = []
    noise = ["sigma", "draws", "alpha"]
    radii = {f"{norm} {eps}": None for norm, eps in zip(records["norm"], records["eps"], strict=True)}
    for _, found in records.groupby(["model", "certificate", "sigma"], sort=False):
        first, by_radius = found.iloc[0], found.set_index(found["norm"] + " " + found["eps"]).loc[list(radii)]
        cells = [
            TableCell(text=first["certifies"], value=first["certifies"]),
            *(TableCell(text=f"{first[name]:g}", value=repr(float(first[name]))) for name in noise),
            TableCell(text=str(first["images"]), value=str(first["images"])),
            _number(first["smoothed_correct"]),
            _number(first["smoothed_abstained"]),
            *map(_certified, by_radius["smoothed_certified"], by_radius["certifiable"]),
        ]
        rows.append(Row(name=f"smoothed {first['model']}", cells=cells))
    return Content(
        "Shares that are certified of smoothed networks, which are not the networks attacked above",
        ["smoothed network", "lower bound of", *noise, "images", "right", "abstained", *radii],
        rows,
    )


def _certified(share: float, certifiable: bool) -> TableCell:
    return _number(share) if certifiable else TableCell(text=TOO_FEW_DRAWS, value="")


def _number(value: float | None, trust: str = "") -> TableCell:
    """A number, with the mark of the row whose attack it comes from."""
    if value is None or pd.isna(value):
        return EMPTY
    return TableCell(text=marked(f"{value:.2f}", trust), value=repr(float(value)))


def _title(run: RunFolder) -> str:
    models = counted(run.records["model"].nunique(), "model")
    return f"Robustness of {models} on {run.identity.dataset} under {attacks_of(run.records)}"


def _lead(run: RunFolder) -> str:
    cells = f"{counted(len(run.records), 'cell')} on {counted(run.identity.images, 'image')}"
    missing = f"; {run.missing} more are not complete and are left out" if run.missing else ""
    return f"{cells}{missing}. robustbench_bcos {run.identity.version}, {run.session['started']}."


def _model(run: RunFolder, model: str, figures: Sequence[ReportFigure]) -> dict[str, Any]:
    first = run.records[run.records["model"] == model].iloc[0]
    facts = [
        ("family", first["family"]),
        ("architecture", first["architecture"]),
        ("parameters", f"{first['parameters']:,}"),
        ("training", first["training"]),
        *([("B", f"{first['b']:g}")] if pd.notna(first["b"]) else []),
        *([("texts", first["texts"])] if first["texts"] else []),
        *([("explained by", first["explanation"])] if first["explanation"] else []),
        ("weights (SHA-256)", first["weights_sha256"]),
    ]
    return {
        "name": model,
        "facts": facts,
        "figures": [_embedded(figure) for figure in figures if figure.model == model],
    }


def _provenance(run: RunFolder) -> list[tuple[str, str]]:
    session = run.session
    return [
        ("command", session["command"]),
        ("started", session["started"]),
        ("device", session["device"]),
        ("commit", session["commit"] or "not run from a checkout"),
        ("images", f"{run.identity.images} of {run.identity.dataset}, SHA-256 {run.identity.subset}"),
        ("seed", str(run.identity.seed)),
        *((f"version of {package}", version) for package, version in session["versions"].items()),
    ]


def _linked(note: str) -> Markup:
    """A note in which links to the documentation of a check lead to what the page itself says of it."""
    parts = re.split(rf"({re.escape(PAGE_OF_CHECKS)}#\w+)", note)
    text = Markup("")
    for part in parts:
        name = part.removeprefix(f"{PAGE_OF_CHECKS}#")
        known = name != part and name in CHECKS
        text += Markup('<a href="#check-{}">{}</a>').format(name, "what this check asks") if known else part
    return text


def _check(check: AbstractCheck) -> dict[str, str]:
    return {
        "name": check.name,
        "purpose": " ".join((type(check).__doc__ or "").split("\n\n")[0].split()),
        "asks": check.asks,
        "link": check.link,
    }


def _embedded(figure: ReportFigure) -> dict[str, str]:
    image = b64encode(figure.image).decode("ascii")
    return {
        "name": figure.name,
        "caption": figure.caption,
        "description": figure.description,
        "image": image,
        "title": figure.title,
    }


def _packaged(name: str) -> str:
    return (files("robustbench_bcos.reports") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode("utf-8")).digest()).decode("ascii")
