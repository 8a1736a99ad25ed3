"""Comparisons as text: whatever a model is called, each format gives back the same cells."""

import csv
import html
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from pandas.api.types import is_numeric_dtype

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.comparison import Comparison, compare
from robustbench_bcos.reports.comparison_formats import FORMATS, readable
from robustbench_bcos.reports.trainings import compare_trainings
from tests.reports.handmade import record, results_of

HOSTILE = (
    "a|b",
    "||",
    "<script>alert(1)</script>",
    "x & y",
    "&lt;",
    "$\\alpha$ and $b$",
    "50%_of#{all}",
    "back\\slash\\",
    "c\\|d",
    "\\textbf{e}",
    "~tilde^hat",
    "*bold* `code`",
    "“é” 网",
    'it\'s "quoted", twice',
    "a \\\\ b",
    "line\nbreak",
    "row\n| x | y |",
    "\\input{file}\n\\end{tabular}",
)
UNESCAPED = {
    "\\space ": " ",
    "\\textbackslash ": "\\",
    "\\textasciitilde ": "~",
    "\\textasciicircum ": "^",
    **{f"\\{sign}": sign for sign in "&%$#_{}"},
}


def in_threads(*names: str) -> Comparison:
    """The second is comparable with the first, the third is not, the fourth has no reference."""
    changes: dict[int, dict[str, str]] = {1: {"loss": "bce"}, 2: {"subset": "other"}, 3: {"norm": "linf"}}
    rows = [record(name, 120 - 7 * place, **changes.get(place, {})) for place, name in enumerate(names)]
    return compare([results_of(*rows)])


@pytest.fixture(scope="module")
def hostile() -> Comparison:
    return in_threads(*HOSTILE)


def over_trainings() -> Comparison:
    rows = [record(f"{name}-seed{seed}", 100 + seed) for name in ("net", "b_cos & co") for seed in range(3)]
    return compare_trainings([results_of(*rows, record("single", 90))])


# Each format read back: its heading and its rows, as they are shown


def cells_of_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def cells_of_markdown(text: str) -> list[list[str]]:
    lines = text.split("\n\n")[0].split("\n")
    assert set(lines.pop(1)) <= set("|:-")
    return [[markdown_text(cell) for cell in markdown_row(line)] for line in lines]


def markdown_row(line: str) -> list[str]:
    """Cells between bars; a sign after a backslash is part of a cell."""
    assert line.startswith("|")
    assert line.endswith("|")
    found = re.findall(r"((?:\\.|[^\\|])*)\|", line[1:])
    assert sum(map(len, found)) + len(found) == len(line) - 1
    return [cell.strip() for cell in found]


def markdown_text(source: str) -> str:
    """What is seen; nothing in it may be a tag."""
    assert "<" not in source
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", source))


def cells_of_latex(text: str) -> list[list[str]]:
    body = text[text.index("\\toprule") : text.index("\\bottomrule")].replace("\\toprule\n", "")
    rows = [row for row in body.replace("\\midrule\n", "").split(" \\\\\n") if row]
    return [[latex_text(cell.strip(" ")) for cell in re.split(r"(?<!\\)&", row)] for row in rows]


def latex_text(source: str) -> str:
    """What is seen; no sign in it may mean anything to LaTeX."""
    pattern = "|".join(map(re.escape, sorted(UNESCAPED, key=len, reverse=True)))
    # A space that ends a command may have been stripped at the end of a cell.
    source = re.sub(r"(\\text[a-z]+)$", r"\1 ", source)
    source = source.removeprefix("{}")
    assert not set(re.sub(pattern, "", source)) & set("\\&%$#_{}~^")
    return re.sub(pattern, lambda found: UNESCAPED[found[0]], source)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        """The tag around each text."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        if tag in ("td", "th", "li"):
            self.texts.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th", "li"):
            self.texts[-1] = (self.open[-1], self.texts[-1][1] + data)


def parsed(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    page.close()
    assert not page.open
    return page


def cells_of_html(text: str) -> list[list[str]]:
    texts = parsed(text).texts
    heading = [text for tag, text in texts if tag == "th"]
    cells = [text for tag, text in texts if tag == "td"]
    return [heading, *(cells[start : start + len(heading)] for start in range(0, len(cells), len(heading)))]


READERS: dict[str, Callable[[str], list[list[str]]]] = {
    "csv": cells_of_csv,
    "markdown": cells_of_markdown,
    "latex": cells_of_latex,
    "html": cells_of_html,
}


def on_one_line(cells: list[list[str]]) -> list[list[str]]:
    """Line breaks in names may be shown as spaces, or as the two signs that mean them."""
    return [[re.sub(r"\\[nr]|\s", " ", cell).strip() for cell in row] for row in cells]


def expected_cells(style: str, found: Comparison) -> list[list[str]]:
    if style != "csv":
        shown = readable(found.table)
        return [list(shown), *shown.to_numpy().tolist()]
    rows = found.table.astype(object).where(found.table.notna(), "").to_numpy().tolist()
    return [list(found.table), *([str(cell) for cell in row] for row in rows)]


def test_every_format_is_read_back() -> None:
    assert set(READERS) == set(FORMATS)


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("found", [in_threads("a", "b", "c", "d"), over_trainings()], ids=["models", "trainings"])
def test_a_format_gives_back_every_cell(style: str, found: Comparison) -> None:
    assert READERS[style](FORMATS[style](found)) == expected_cells(style, found)


@pytest.mark.parametrize("style", FORMATS)
def test_a_name_is_text_whatever_is_in_it(style: str, hostile: Comparison) -> None:
    read = READERS[style](FORMATS[style](hostile))
    assert on_one_line(read) == on_one_line(expected_cells(style, hostile))
    assert len({len(row) for row in read}) == 1


@pytest.mark.parametrize("style", FORMATS)
def test_a_table_that_was_sorted_keeps_its_order(style: str) -> None:
    found = in_threads("a", "b", "c", "d")
    turned = found._replace(table=found.table.sort_values("correct"))
    first, *rest = READERS[style](FORMATS[style](found))
    assert READERS[style](FORMATS[style](turned)) == [first, *reversed(rest)]


def test_an_unknown_format_is_refused_with_what_there_is() -> None:
    with pytest.raises(RequestError, match="unknown format 'latx': did you mean 'latex'"):
        FORMATS["latx"]


# What numbers are shown as


def test_fractions_are_shown_in_percent_and_differences_in_points() -> None:
    found = in_threads("a", "b", "c", "d")
    shown = readable(found.table)
    assert list(shown) == ["threat", "model", "accuracy %", "95 %", "difference, points", "95 % of it", "p", "test"]
    for text, row in zip(shown.to_dict("records"), found.table.to_dict("records"), strict=True):
        assert text["accuracy %"] == f"{100 * row['accuracy']:.1f}"
        assert text["95 %"] == f"{100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}"
        if row["test"] == "Fisher":
            assert text["difference, points"] == f"{100 * row['difference']:+.1f}"
            assert text["95 % of it"] == f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
            assert float(text["p"]) == pytest.approx(row["p"], rel=0.05)  # two digits
        else:
            assert {text["difference, points"], text["95 % of it"], text["p"]} == {""}
    assert shown["test"].tolist() == ["", "Fisher", "not comparable", "no reference"]


def test_means_are_shown_in_percent_with_what_a_single_training_lacks_left_empty() -> None:
    found = over_trainings()
    shown = readable(found.table)
    assert list(shown) == [
        *("measure", "threat", "recipe", "trainings", "mean", "95 %", "deviation"),
        *("difference", "95 % of it", "p"),
    ]
    net, other, single = shown[shown["measure"] == "robust_accuracy_worst"].to_dict("records")
    assert (net["mean"], net["deviation"], net["95 %"]) == ("50.5 %", "0.5 points", "49.3 to 51.7")
    assert (net["difference"], net["95 % of it"], net["p"]) == ("", "", "")
    # Two means of 3 with deviations of 0.5 points: 4 degrees of freedom, 2.776 * 0.5 * sqrt(2 / 3) = 1.13.
    assert (other["difference"], other["95 % of it"], other["p"]) == ("+0.0 points", "-1.1 to +1.1", "1")
    assert (single["trainings"], single["mean"], single["deviation"], single["95 %"]) == ("1", "45.0 %", "", "")


def test_similarities_are_shown_as_they_are() -> None:
    name = "explanation_cosine_true_attack"
    values = {"net": (0.91, 0.92, 0.93), "bcos": (0.81, 0.82, 0.83)}
    rows = [
        record(f"{recipe}-seed{seed}", 100, **{name: value})
        for recipe, similar in values.items()
        for seed, value in enumerate(similar)
    ]
    found = compare_trainings([results_of(*rows)], measures=[name])
    net, bcos = readable(found.table).to_dict("records")
    # 4.303 * 0.01 / sqrt(3) = 0.025, and 2.776 * 0.01 * sqrt(2 / 3) = 0.023.
    assert (net["mean"], net["deviation"], net["95 %"]) == ("0.920", "0.010", "0.895 to 0.945")
    assert (bcos["difference"], bcos["95 % of it"]) == ("-0.100", "-0.123 to -0.077")


def test_numbers_in_a_csv_are_those_of_the_table_to_the_last_bit() -> None:
    for found in (in_threads("a", "b", "c", "d"), over_trainings()):
        heading, *lines = cells_of_csv(FORMATS["csv"](found))
        for place, column in enumerate(heading):
            if is_numeric_dtype(found.table[column]):
                read = [float(line[place]) for line in lines if line[place]]
                assert read == found.table[column].dropna().tolist()


# What belongs to one format


def notes_of(style: str, text: str) -> list[str]:
    if style == "html":
        return [note for tag, note in parsed(text).texts if tag == "li"]
    if style == "latex":
        return [line.removeprefix("% ") for line in text.split("\\begin{tabular}")[0].splitlines()]
    _, listed = text.split("\n\n")
    return [markdown_text(line.removeprefix("- ")) for line in listed.splitlines()]


@pytest.mark.parametrize("style", ["markdown", "latex", "html"])
def test_notes_are_text_whatever_is_in_them(style: str, hostile: Comparison) -> None:
    read = notes_of(style, FORMATS[style](hostile))
    assert len(hostile.notes) == 3
    assert all(" ".join(name.split()) in " ".join(hostile.notes[1].split()) for name in HOSTILE if name != HOSTILE[3])
    assert [" ".join(note.split()) for note in read] == [" ".join(note.split()) for note in hostile.notes]


def test_html_has_the_tags_of_a_table_and_a_list_and_no_others(hostile: Comparison) -> None:
    page = parsed(FORMATS["html"](hostile))
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td", "ul", "li"}


def test_latex_is_a_tabular_between_booktabs_rules(hostile: Comparison) -> None:
    text = FORMATS["latex"](hostile)
    code = "\n".join(line for line in text.splitlines() if not line.startswith("% "))
    assert re.findall(r"\\(?:begin|end)\{tabular\}|\\(?:top|mid|bottom)rule", code) == [
        "\\begin{tabular}",
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
        "\\end{tabular}",
    ]
    bare = re.sub(r"\\[{}]", "", code)
    assert bare.count("{") == bare.count("}")
    assert "\\hline" not in code
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lcr]+)\}", code)
    assert len(columns) == 8


def test_a_long_name_is_not_cut() -> None:
    name = "folder/" + "deep/" * 60 + "net"
    for style in FORMATS:
        assert name in FORMATS[style](in_threads(name, "b"))


@pytest.mark.parametrize("name", ["[3cm] net", "*net"])
def test_no_name_is_an_argument_of_the_row_before_it_in_latex(name: str) -> None:
    text = FORMATS["latex"](in_threads("first", name))
    assert f"{{}}{name} &" in text
    assert not re.search(r"(?:\\\\|rule)\s*[\[*]", text)
