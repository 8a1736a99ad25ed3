"""The page of a run: one file that shows what was measured, to everyone, and runs nothing that a name may contain."""

import io
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from PIL import Image

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.trust import Status
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.statistics import wilson
from robustbench_bcos.reports.figures import ReportFigure
from robustbench_bcos.reports.page import GRAVITY, render, write_page
from robustbench_bcos.reports.run_folder import RunFolder
from tests.reports import handmade
from tests.reports.pictured import TOTAL, explained, record, run_of, similarities_of

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Element:
    """An element of a page."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: "Element | None") -> None:
        self.tag = tag
        self.attributes = attributes
        self.parent = parent
        self.children: list[Element | str] = []

    def all(self, tag: str, **wanted: str) -> Iterator["Element"]:
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and wanted.items() <= child.attributes.items():
                    yield child
                yield from child.all(tag, **wanted)

    def one(self, tag: str, **wanted: str) -> "Element":
        (found,) = self.all(tag, **wanted)
        return found

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


class Tree(HTMLParser):
    """A page as elements; tags must be closed by the ones that opened them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.open = Element("", {}, None)
        self.feed(page)
        self.close()
        assert self.open is self.root, self.open.tag

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), attrs
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.children.append(element)
        if tag not in VOID:
            self.open = element

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.tag, (tag, self.open.tag)
        assert self.open.parent is not None
        self.open = self.open.parent

    def handle_data(self, data: str) -> None:
        self.open.children.append(data)


def parsed(page: str) -> Element:
    return Tree(page).root


def png(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), colour).save(file, "PNG")
    return file.getvalue()


def figures(folder: Path, *wanted: tuple[str, str | None, bool], caption: str = "A caption.") -> list[ReportFigure]:
    """Figures that are in files, without anything having been drawn: name, model, whether on the page."""
    written = []
    for place, (name, model, on_page) in enumerate(wanted):
        file = folder / f"{name}.png"
        file.write_bytes(png(place))
        written.append(
            ReportFigure(
                name=name,
                figure=None,
                caption=caption,
                description=f"Numbers of {name}.",
                model=model,
                on_page=on_page,
                files=(file,),
                image=file.read_bytes(),
            )
        )
    return written


FULL: dict[str, Any] = {
    f"explanation_{measure}_true_{comparison}": value
    for measure, values in {"cosine": (0.25, 0.875, 0.5), "ssim": (0.125, 0.75, 0.375)}.items()
    for comparison, value in zip(("attack", "noise", "other"), values, strict=True)
}
ROWS = [
    record("net", 21, steps=20, parameters=1234567, **explained({}), **FULL),
    record("net", 31, steps=5, **explained({}), **FULL),
    record("bcos", 150, clean=181, b=1.25, family="bcos", **explained({"attack": 0.0})),
    record("bcos", 120, clean=181, eps=1.5, b=1.25),
]
SIMILARITIES = similarities_of("cell 0", {"attack": [0.25, 0.25]})


@pytest.fixture(scope="module")
def run() -> RunFolder:
    return run_of(ROWS, similarities=SIMILARITIES)


@pytest.fixture(scope="module")
def text(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> str:
    wanted = [("curve", None, True), ("of-net", "net", True), ("of-bcos", "bcos", True), ("fewer-steps", "net", False)]
    return render(run, figures(tmp_path_factory.mktemp("figures"), *wanted))


@pytest.fixture(scope="module")
def page(text: str) -> Element:
    return parsed(text)


def table(page: Element, section: str) -> Element:
    return page.one("section", id=section).one("table")


def column(table: Element, name: str) -> dict[str, Element]:
    """Cells of a column by what their rows are called."""
    heads = [head.words for head in table.one("thead").all("th")]
    place = heads.index(name) - 1
    return {row.one("th").words: list(row.all("td"))[place] for row in table.one("tbody").all("tr")}


# What it shows


def test_accuracies_are_those_of_the_records_with_their_intervals(page: Element) -> None:
    accuracies = table(page, "accuracies")
    heads = [head.words for head in accuracies.one("thead").all("th")]
    assert heads == ["model", "trust", "clean", "l2 0.5 pgd", "l2 1.5 pgd"]
    trust, clean, near, far = (column(accuracies, name) for name in heads[1:])
    assert {cell.text for cell in trust.values()} == {"sound"}
    assert list(clean) == ["net", "bcos"]

    def interval(count: int) -> str:
        low, high = wilson(count, TOTAL)
        return f"{100 * low:.1f}–{100 * high:.1f}"

    assert clean["net"].text == "95.0" + interval(190)
    assert clean["bcos"].text == "90.5" + interval(181)
    assert near["net"].text == f"15.5 / 10.5{interval(31)} / {interval(21)}"
    assert near["bcos"].text == "75.0" + interval(150)
    assert far["bcos"].text == "60.0" + interval(120)


def test_what_was_not_measured_is_empty_and_sorts_as_nothing(page: Element) -> None:
    missing = column(table(page, "accuracies"), "l2 1.5 pgd")["net"]
    assert (missing.words, missing.attributes["data-value"]) == ("", "")
    noise = column(table(page, "explanations"), "cosine: noise")["bcos"]
    assert (noise.words, noise.attributes["data-value"]) == ("", "")


def test_cells_are_sorted_by_numbers_of_the_most_steps(page: Element) -> None:
    near = column(table(page, "accuracies"), "l2 0.5 pgd")
    assert {model: float(cell.attributes["data-value"]) for model, cell in near.items()} == {"net": 0.105, "bcos": 0.75}


def test_the_best_of_a_column_is_marked(page: Element) -> None:
    accuracies = table(page, "accuracies")
    best = {
        name: [model for model, cell in column(accuracies, name).items() if "best" in cell.attributes.get("class", "")]
        for name in ("clean", "l2 0.5 pgd", "l2 1.5 pgd")
    }
    assert best == {"clean": ["net"], "l2 0.5 pgd": ["bcos"], "l2 1.5 pgd": ["bcos"]}


def test_similarities_are_beside_their_controls(page: Element) -> None:
    similarities = table(page, "explanations")
    names = [
        "cosine: attacked",
        "cosine: noise",
        "cosine: other image",
        "ssim: attacked",
        "ssim: noise",
        "ssim: other image",
    ]
    assert [column(similarities, name)["net"].words for name in names] == [
        "0.25",
        "0.88",
        "0.50",
        "0.12",
        "0.75",
        "0.38",
    ]
    assert [float(column(similarities, name)["net"].attributes["data-value"]) for name in names] == [
        0.25, 0.875, 0.5, 0.125, 0.75, 0.375,
    ]  # fmt: skip
    assert column(similarities, "changed")["net"].words == "0.50"
    assert column(similarities, "images")["net"].words == "50"
    assert column(similarities, "threat")["net"].words == "l2 0.5 pgd"


def test_threats_are_sorted_by_epsilon_and_not_by_how_it_is_written() -> None:
    radii = [("0.5", 0.5), ("8/255", 8 / 255), ("16/255", 16 / 255), ("10", 10.0), ("2", 2.0)]
    rows = [
        record(f"net {text}", 1, norm="linf", **explained({"attack": 0.5})) | {"eps": text, "epsilon": value}
        for text, value in radii
    ]
    threats = column(table(parsed(render(run_of(rows, similarities=SIMILARITIES), [])), "explanations"), "threat")
    ordered = sorted(threats.values(), key=lambda cell: cell.attributes["data-value"])
    assert [cell.words for cell in ordered] == [f"linf {eps} pgd" for eps in ("8/255", "16/255", "0.5", "2", "10")]


def test_similarity_of_zero_is_a_number() -> None:
    page = parsed(render(run_of([record("net", 1, **explained({"attack": 0.0}))], similarities=SIMILARITIES), []))
    assert column(table(page, "explanations"), "cosine: attacked")["net"].words == "0.00"


def test_each_model_has_a_section_with_what_is_known_of_it_and_its_figures(page: Element) -> None:
    net, bcos = page.all("article")
    facts = dict(zip((d.text for d in net.all("dt")), (d.text for d in net.all("dd")), strict=True))
    assert net.one("h3").text == "net"
    assert facts == {
        "family": "conventional",
        "architecture": "resnet8",
        "parameters": "1,234,567",
        "training": "natural",
        "explained by": "dynamic",
        "weights (SHA-256)": "ab" * 32,
    }
    assert "B" in [term.text for term in bcos.all("dt")]
    assert [image.attributes["alt"] for image in net.all("img")] == ["A caption. Numbers of of-net."]
    assert [image.attributes["alt"] for image in bcos.all("img")] == ["A caption. Numbers of of-bcos."]
    assert [image.attributes["alt"] for image in page.one("section", id="figures").all("img")] == [
        "A caption. Numbers of curve."
    ]


def test_images_are_the_files(text: str, page: Element) -> None:
    assert "fewer-steps" not in text
    for place, image in enumerate(page.all("img")):
        kind, content = image.attributes["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert b64decode(content, validate=True) == png(place)


def test_configuration_and_provenance_are_complete(page: Element, run: RunFolder) -> None:
    provenance = page.one("section", id="provenance")
    shown = dict(zip((d.text for d in provenance.all("dt")), (d.text for d in provenance.all("dd")), strict=True))
    assert shown["command"] == run.session["command"]
    assert shown["started"] == "2026-01-02T03:04:05+00:00"
    assert shown["device"] == "x86_64 CPU, 1 threads"
    assert shown["commit"] == "not run from a checkout"
    assert shown["seed"] == "0"
    assert shown["version of python"] == "3.12.1"
    assert run.identity.subset in shown["images"]
    assert [json.loads(part.text) for part in provenance.all("pre")] == [run.identity.to_json(), run.session]


def test_classes_are_listed_in_the_order_of_the_outputs(page: Element, run: RunFolder) -> None:
    listed = page.one("section", id="provenance").one("ol")
    assert listed.attributes["start"] == "0"
    assert [one.text for one in listed.all("li")] == run.class_names


def test_what_is_odd_about_the_images_is_said_above_the_table() -> None:
    page = parsed(render(run_of(ROWS, images=["Left out: 3 <b>files</b>."]), []))
    assert "Left out: 3 <b>files</b>." in [one.text for one in page.one("section", id="accuracies").all("p")]


def test_a_commit_is_shown_where_there_is_one() -> None:
    page = parsed(render(run_of([record("net", 1)], commit="0123456789abcdef+dirty"), []))
    assert "0123456789abcdef+dirty" in [term.text for term in page.one("section", id="provenance").all("dd")]


@pytest.mark.parametrize("missing", [0, 3])
def test_a_run_that_is_not_complete_says_so(missing: int) -> None:
    lead = parsed(render(run_of(ROWS, missing=missing), [])).one("header").one("p").words
    assert lead.startswith(
        "4 cells on 200 images" + ("; 3 more are not complete and are left out." if missing else ".")
    )


def test_numbers_that_nobody_checked_and_the_encoded_space_are_pointed_out() -> None:
    def notes(**changes: Any) -> str:
        section = parsed(render(run_of([record("net", 1, **changes)]), [])).one("section", id="accuracies")
        return " ".join(note.words for note in section.all("p", **{"class": "note"}))

    assert "Trust: unchecked (†)" in notes(trust="unchecked")
    assert "encoded" not in notes()
    assert "Space: encoded" in notes(space="encoded")


def test_what_a_run_does_not_have_is_not_on_its_page() -> None:
    page = parsed(render(run_of([record("net", 1)]), []))
    assert [section.attributes["id"] for section in page.all("section")] == ["accuracies", "models", "provenance"]
    assert not list(page.all("img"))
    assert "model on digits" in page.one("title").text
    assert "1 model " in page.one("h1").text


def test_equal_runs_have_equal_pages(run: RunFolder) -> None:
    assert render(run, []) == render(run_of(ROWS, similarities=SIMILARITIES), [])


# Evidence


def outcome(cell: int, check: str, status: Status, against: int = 0, examined: int = 40) -> dict[str, Any]:
    sentence, link = f"{against} of {examined} images <b>{check}</b>", "page"
    return handmade.outcome(f"cell {cell}", check, status, against, examined, sentence=sentence, link=link)


def examined(*outcomes: dict[str, Any], rows: list[dict[str, Any]] = ROWS) -> RunFolder:
    return replace(run_of(rows), evidence=pd.DataFrame(list(outcomes)))


EVIDENCE = (
    outcome(0, "noise", "held", 0, 12), outcome(0, "more_steps", "repaired", 3, 20), outcome(0, "fab", "not done"),
    outcome(1, "noise", "undermined", 2, 9), outcome(1, "more_steps", "repaired", 5, 30), outcome(1, "fab", "not done"),
    outcome(2, "noise", "held", 0, 8), outcome(2, "more_steps", "held", 0, 8), outcome(2, "fab", "not done"),
    outcome(3, "noise", "reported", 1, 7), outcome(3, "more_steps", "held", 0, 6), outcome(3, "fab", "not done"),
)  # fmt: skip


@pytest.fixture(scope="module")
def evidence() -> Element:
    return parsed(render(examined(*EVIDENCE), []))


def test_evidence_has_a_row_for_each_check_and_a_column_for_each_model(evidence: Element) -> None:
    found = table(evidence, "evidence")
    assert [head.words for head in found.one("thead").all("th")] == ["check", "net", "bcos"]
    assert list(column(found, "net")) == ["noise", "more_steps", "fab"]
    assert "#evidence" in [link.attributes["href"] for link in evidence.one("nav").all("a")]


def test_of_a_models_rows_the_gravest_answer_is_shown(evidence: Element) -> None:
    found = table(evidence, "evidence")
    net, bcos = (column(found, name) for name in ("net", "bcos"))
    assert [cell.text for cell in net.values()] == ["2 of 9undermined", "5 of 30repaired", "not done"]
    assert [cell.text for cell in bcos.values()] == ["1 of 7reported", "0 of 8held", "not done"]
    for cell in (net["noise"], bcos["more_steps"]):
        assert len(list(cell.all("span", **{"class": "interval"}))) == 1


def test_a_check_that_had_nothing_to_examine_has_held_nothing() -> None:
    counts = (0, 0, 0, 4)
    found = examined(*(outcome(place, "noise", "held", 0, count) for place, count in enumerate(counts)))
    rows = parsed(render(found, []))
    said = [column(table(rows, "evidence"), name)["noise"].text for name in ("net", "bcos")]
    assert said == ["none to examine", "0 of 4held"]


def test_evidence_is_sorted_by_counts_and_what_was_not_done_has_none(evidence: Element) -> None:
    found = table(evidence, "evidence")
    values = {
        name: [cell.attributes["data-value"] for cell in column(found, name).values()] for name in ("net", "bcos")
    }
    assert values == {"net": ["2", "5", ""], "bcos": ["1", "0", ""]}


@pytest.mark.parametrize(("graver", "status"), list(pairwise(GRAVITY)))
def test_answers_have_an_order(graver: str, status: str) -> None:
    rows = [record("net", 21), record("net", 31, eps=1.5)]
    for order in ((0, 1), (1, 0)):
        outcomes = [outcome(place, "noise", (graver, status)[place], 3) for place in order]
        cell = column(table(parsed(render(examined(*outcomes, rows=rows), [])), "evidence"), "net")["noise"]
        assert cell.text == ("not done" if graver == "not done" else f"3 of 40{graver}")


def test_every_status_there_is_can_be_shown() -> None:
    assert set(GRAVITY) == set(get_args(Status))


def test_a_check_that_only_some_models_have_is_empty_for_the_others() -> None:
    found = table(parsed(render(examined(*EVIDENCE[:2], EVIDENCE[6]), [])), "evidence")
    cells = {name: column(found, name)["more_steps"] for name in ("net", "bcos")}
    assert {model: (cell.words, cell.attributes["data-value"]) for model, cell in cells.items()} == {
        "net": ("3 of 20repaired", "3"),
        "bcos": ("", ""),
    }


def test_every_check_is_explained_once_with_a_name_that_can_be_linked_to(evidence: Element) -> None:
    section = evidence.one("section", id="evidence")
    terms = list(section.all("dt"))
    assert [term.text for term in terms] == list(CHECKS)
    assert [term.attributes["id"] for term in terms] == [f"check-{name}" for name in CHECKS]
    for name, said in zip(CHECKS, section.all("dd"), strict=True):
        purpose = " ".join(str(type(CHECKS[name]).__doc__).split())
        what, counted = said.words.split(" It counts images ")
        assert purpose.startswith(what)
        assert counted == f"{CHECKS[name].asks}. Remedies: {CHECKS[name].link} of the documentation."


def test_links_to_checks_lead_to_where_the_page_explains_them(evidence: Element) -> None:
    explained_here = {term.attributes["id"] for term in evidence.all("dt") if "id" in term.attributes}
    rows = [link for head in table(evidence, "evidence").one("tbody").all("th") for link in head.all("a")]
    assert rows
    assert [row.attributes["href"] for row in rows] == [f"#check-{row.words}" for row in rows]
    said = outcome(0, "noise", "undermined", 2, 9) | {"link": CHECKS["noise"].link}
    page = parsed(render(examined(said, rows=[record("net", 21, trust="suspect")]), []))
    (link,) = [link for note in page.one("section", id="accuracies").all("p") for link in note.all("a")]
    assert link.words == "what this check asks"
    assert {link.attributes["href"][1:], *(row.attributes["href"][1:] for row in rows)} <= explained_here


def test_what_is_undermined_comes_first_and_stands_out() -> None:
    rows = [record("net", 21, trust="suspect"), record("bcos", 150, trust="sound")]
    outcomes = [outcome(0, "more_steps", "held"), outcome(1, "more_steps", "repaired"), outcome(1, "noise", "held")]
    page = parsed(render(examined(*outcomes, outcome(0, "noise", "undermined", 2, 9), rows=rows), []))
    alarming = {
        section: {
            row.one("th").words: row.attributes.get("class") for row in table(page, section).one("tbody").all("tr")
        }
        for section in ("accuracies", "evidence")
    }
    assert alarming == {
        "accuracies": {"net": "alarming", "bcos": None},
        "evidence": {"noise": "alarming", "more_steps": None},
    }
    assert list(alarming["evidence"]) == ["noise", "more_steps"]
    answers = column(table(page, "evidence"), "net")
    assert {check: cell.attributes.get("class") for check, cell in answers.items()} == {
        "noise": "undermined",
        "more_steps": None,
    }
    assert column(table(page, "accuracies"), "trust")["net"].attributes["class"] == "suspect"


def test_every_number_says_in_which_column_it_is(page: Element) -> None:
    for section in ("accuracies", "explanations"):
        found = table(page, section)
        heads = [head.words for head in found.one("thead").all("th")]
        for row in found.one("tbody").all("tr"):
            assert [cell.attributes["data-label"] for cell in row.all("td")] == heads[1:]


def test_panels_are_folded_under_a_title_and_curves_are_not(tmp_path: Path) -> None:
    drawn = figures(tmp_path, ("panel", "net", True), ("curve", None, True))
    page = parsed(render(run_of(ROWS[:1]), [replace(drawn[0], title="Images under pgd"), drawn[1]]))
    models = page.one("section", id="models")
    assert models.one("summary").words == "Images under pgd"
    assert len(list(models.one("details").all("img"))) == len(list(models.all("img"))) == 1
    assert "open" not in models.one("details").attributes
    assert not list(page.one("section", id="figures").all("details"))


def test_why_a_number_is_suspect_stands_above_it_and_is_escaped() -> None:
    rows = [record("<i>net", 21, trust="suspect"), record("<i>net", 31, eps=1.5, trust="sound")]
    text = render(examined(outcome(0, "noise", "undermined", 2, 9), outcome(1, "noise", "held"), rows=rows), [])
    assert "<b>" not in text
    assert "<i>net" not in text
    section = parsed(text).one("section", id="accuracies")
    notes = [note.words for note in section.all("p")]
    assert "<i>net: noise: 2 of 9 images <b>noise</b>; see page" in notes
    (highlighted,) = (note.words for note in section.all("p", **{"class": "note"}))
    assert highlighted.startswith("Trust: 1 suspect (?), 1 sound.")
    accuracies = table(parsed(text), "accuracies")
    assert column(accuracies, "trust")["<i>net"].text == "1 suspect (?), 1 sound"
    near, far = (column(accuracies, name)["<i>net"] for name in ("l2 0.5 pgd", "l2 1.5 pgd"))
    assert near.text.startswith("10.5?")
    assert far.text.startswith("15.5")
    assert "?" not in far.text
    # The mark is no part of the number that is sorted.
    assert near.attributes["data-value"] == "0.105"


def test_a_check_of_another_name_is_escaped() -> None:
    text = render(examined(outcome(0, "<script>alert(1)</script>", "undermined", 2), rows=[record("net", 1)]), [])
    assert "<script>alert" not in text
    assert list(column(table(parsed(text), "evidence"), "net")) == ["<script>alert(1)</script>"]


def test_tables_of_evidence_are_tables_with_captions_and_headers(evidence: Element) -> None:
    tables = list(evidence.all("table"))
    assert len(tables) == 2
    names = [element.attributes["id"] for element in elements(evidence) if "id" in element.attributes]
    assert len(set(names)) == len(names)
    for one in tables:
        assert one.one("caption").words
        assert all(head.attributes["scope"] == "col" and head.words for head in one.one("thead").all("th"))


# For everyone


def test_the_language_the_title_and_the_outline_are_given(page: Element) -> None:
    assert page.one("html").attributes["lang"] == "en"
    assert page.one("title").text == page.one("h1").text == "Robustness of 2 models on digits under pgd"
    assert page.one("meta", charset="utf-8")
    assert "width=device-width" in page.one("meta", name="viewport").attributes["content"]
    levels = [int(level) for level in re.findall(r"<h([1-6])", render(run_of(ROWS, similarities=SIMILARITIES), []))]
    assert levels[0] == 1
    assert 1 not in levels[1:]
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    assert len(list(page.all("main"))) == 1


def test_tables_are_tables_with_captions_and_headers(page: Element) -> None:
    tables = list(page.all("table"))
    assert len(tables) == 2
    for one in tables:
        assert one.one("caption").words
        heads = list(one.one("thead").all("th"))
        assert all(head.attributes["scope"] == "col" and head.words for head in heads)
        for row in one.one("tbody").all("tr"):
            assert row.one("th").attributes["scope"] == "row"
            assert len(list(row.all("td"))) == len(heads) - 1


def test_every_header_is_a_button_and_what_scrolls_can_be_reached(page: Element) -> None:
    for one in page.all("table"):
        assert all(head.one("button").attributes == {"type": "button"} for head in one.one("thead").all("th"))
        around = one.parent
        assert around is not None
        assert (around.attributes["tabindex"], around.attributes["role"]) == ("0", "region")
        assert around.attributes["aria-label"] == one.one("caption").text
    assert page.one("p", role="status").text == ""


def test_images_are_said_in_words(page: Element) -> None:
    images = list(page.all("img"))
    assert len(images) == 3
    for image in images:
        assert image.attributes["alt"].strip()
        assert image.parent is not None
        assert image.parent.tag == "figure"
        assert image.parent.one("figcaption").words


def test_links_lead_to_parts_of_the_page_and_names_are_given_once(page: Element) -> None:
    every = list(elements(page))
    names = [element.attributes["id"] for element in every if "id" in element.attributes]
    assert len(set(names)) == len(names)
    links = [element.attributes["href"] for element in every if element.tag == "a"]
    assert {"#accuracies", "#explanations", "#figures", "#model-1", "#model-2", "#provenance"} == set(links)
    assert {link.removeprefix("#") for link in links} <= set(names)


# From nowhere else


def elements(root: Element) -> Iterator[Element]:
    for child in root.children:
        if isinstance(child, Element):
            yield child
            yield from elements(child)


LOADING = {"src", "href", "srcset", "action", "formaction", "poster", "data", "background", "cite", "manifest", "style"}


def test_nothing_is_loaded_from_elsewhere(text: str, page: Element) -> None:
    for element in elements(page):
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            if name in LOADING:
                assert value.startswith(("#", "data:")), (element.tag, name, value[:60])
        assert element.tag not in {"iframe", "object", "embed", "base", "form"}
    # The only address a script makes is that of a picture in the page's own data.
    plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text).replace('url("${cell.pictures.sheet}")', "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", plain)


def policy(page: Element) -> dict[str, list[str]]:
    content = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    return {name: values for name, *values in (part.split() for part in content.split(";"))}


def test_only_the_pages_own_script_and_style_are_allowed(page: Element) -> None:
    allowed = policy(page)
    assert allowed["default-src"] == ["'none'"]
    assert allowed["img-src"] == ["data:"]
    assert allowed["base-uri"] == allowed["form-action"] == ["'none'"]
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        digest = b64encode(sha256(page.one(tag).text.encode()).digest()).decode()
        assert allowed[directive] == [f"'sha256-{digest}'"]
    assert set(allowed) == {"default-src", "img-src", "base-uri", "form-action", "script-src", "style-src"}


# Names that nobody would give


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{7*7}}{% raw %}",
    "</td></table></title></style></pre>",
    "<!--",
    "&lt;b&gt;",
    "javascript:alert(1)",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_they_are_and_are_never_markup(name: str, tmp_path: Path) -> None:
    texts = ("model", "family", "architecture", "training", "explanation", "dataset", "eps", "norm")
    row = record("net", 1, **explained({"attack": 0.5})) | dict.fromkeys(texts, name)
    hostile = run_of(
        [row],
        similarities=SIMILARITIES,
        names=[name],
        command=name,
        device=name,
        started=name,
        commit=name,
        versions={name: name},
    )
    wanted = figures(tmp_path, ("a", None, True), ("b", name, True), caption=name)
    text = render(hostile, [replace(figure, description=name) for figure in wanted])
    page = parsed(text)
    plain = parsed(
        render(run_of([record("net", 1, **explained({"attack": 0.5}))], similarities=SIMILARITIES), wanted[:1])
    )

    def skeleton(root: Element) -> dict[str, set[str]]:
        return {
            one.tag: set(one.attributes) for one in elements(root) if one.tag not in {"figure", "img", "figcaption"}
        }

    assert skeleton(page).keys() == skeleton(plain).keys()
    assert not any(attribute.startswith("on") for one in elements(page) for attribute in one.attributes)
    assert len(list(page.all("script"))) == 1
    assert {image.attributes["alt"] for image in page.all("img")} == {f"{name} {name}"}
    assert page.one("title").text == f"Robustness of 1 model on {name} under pgd"
    assert page.one("article").one("h3").text == name
    assert page.one("section", id="accuracies").one("tbody").one("th").text == name
    assert column(table(page, "explanations"), "explained by")[" ".join(name.split())].attributes["data-value"] == name
    assert {term.text for term in page.one("section", id="provenance").all("dd")} >= {name}
    assert [json.loads(part.text) for part in page.all("pre")] == [hostile.identity.to_json(), hostile.session]
    if re.search(r"[<>\"']", name):
        assert name not in text


# The file


def test_the_page_is_one_file_beside_the_figures(run: RunFolder, tmp_path: Path) -> None:
    here = run_of(ROWS, tmp_path, similarities=SIMILARITIES)
    file = write_page(here, [])
    assert file == tmp_path / "report.html"
    assert file.read_text(encoding="utf-8") == render(run, [])
    assert list(tmp_path.iterdir()) == [file]


def test_names_in_any_script_are_utf_8(tmp_path: Path) -> None:
    write_page(run_of([record("größer-模型", 1)], tmp_path), [])
    assert "größer-模型" in (tmp_path / "report.html").read_bytes().decode("utf-8")


def test_a_folder_that_is_gone_is_a_request_that_can_be_repeated(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be written"):
        write_page(run_of([record("net", 1)], tmp_path / "gone"), [])
