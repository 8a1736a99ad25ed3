"""The page in a browser: it sorts, fits, prints, is used by keyboard, and neither fetches nor runs anything else."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_bcos.reports.page import render
from robustbench_bcos.reports.report import write_report
from tests.reports.handmade import outcome
from tests.reports.pictured import explained, images_of, picture, record, run_of, similarities_of

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright (extra `browser`) is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)

# Ordered as text, 100.0 comes before 9.5; and what was not measured would come first.
ACCURACIES = {"net": 19, "bcos": 200, "Zebra": None, "adv": 100}
NEAR, FAR = 0.5, 1.5

LONG = "m" * 120
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' autofocus onfocus='alert(1)",
    "</style></script></title><script>alert(1)</script>",
    "{{7*7}}",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visit:
    """A page that was opened, and all that it did."""

    def __init__(self, page: Any, file: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.requested: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", self._dismiss)
        page.on("request", lambda request: self.requested.append(request.url))
        page.set_default_timeout(5_000)
        page.goto(file.as_uri(), wait_until="load")

    def _dismiss(self, dialog: Any) -> None:
        self.said.append(dialog.message)
        dialog.dismiss()


Opening = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any) -> Iterator[Opening]:
    """Open a file; options are those of a browser's context."""
    contexts = []

    def open_file(file: Path, **options: Any) -> Visit:
        contexts.append(browser.new_context(**options))
        return Visit(contexts[-1].new_page(), file)

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with figures, with a name that has nowhere to break."""
    rows = [record(model, robust, eps=NEAR) for model, robust in ACCURACIES.items() if robust is not None]
    rows += [record(model, 10, eps=FAR) for model in ACCURACIES]
    rows.append(record(LONG, 0, eps=FAR, **explained({"attack": 0.25})))
    run = run_of(
        rows,
        tmp_path_factory.mktemp("run"),
        pictures={len(rows) - 1: [picture(3), picture(14, after=0)]},
        similarities=similarities_of(f"cell {len(rows) - 1}", {"attack": [0.25, 0.5]}),
        command="robustbench_bcos run --model " + ",".join([LONG] * 3),
    )
    files = write_report(run, figures=True)
    assert files[-1].name == "report.html"
    return files[-1]


def order(page: Any) -> list[str]:
    """Models as they stand in the table of accuracies."""
    names: list[str] = page.locator("#accuracies tbody th").all_inner_texts()
    return [name for name in names if name != LONG]


def header(page: Any, name: str) -> Any:
    return page.locator("#accuracies").get_by_role("columnheader", name=name, exact=True)


def test_the_page_says_nothing_fetches_nothing_and_shows_every_image(report: Path, visit: Opening) -> None:
    visited = visit(report)
    sizes = visited.page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(sizes) == 3
    assert min(sizes) > 300
    assert visited.said == []
    assert [url for url in visited.requested if not url.startswith("data:")] == [report.as_uri()]


def test_a_click_sorts_upwards_another_downwards_and_both_are_said(report: Path, visit: Opening) -> None:
    page = visit(report).page
    near, status = header(page, "l2 0.5 pgd"), page.get_by_role("status")
    assert order(page) == ["net", "bcos", "adv", "Zebra"]
    assert near.get_attribute("aria-sort") is None
    near.get_by_role("button").click()
    assert order(page) == ["net", "adv", "bcos", "Zebra"]
    assert near.get_attribute("aria-sort") == "ascending"
    assert status.inner_text() == "Sorted by l2 0.5 pgd, smallest first."
    near.get_by_role("button").click()
    assert order(page) == ["bcos", "adv", "net", "Zebra"]
    assert near.get_attribute("aria-sort") == "descending"
    assert status.inner_text() == "Sorted by l2 0.5 pgd, largest first."


def test_names_sort_as_names_and_only_one_column_is_said_to_be_sorted(report: Path, visit: Opening) -> None:
    page = visit(report).page
    header(page, "l2 0.5 pgd").get_by_role("button").click()
    header(page, "model").get_by_role("button").click()
    assert order(page) == ["adv", "bcos", "net", "Zebra"]
    assert header(page, "l2 0.5 pgd").get_attribute("aria-sort") is None
    header(page, "model").get_by_role("button").click()
    assert order(page) == ["Zebra", "net", "bcos", "adv"]


def test_a_row_is_sorted_as_a_whole(report: Path, visit: Opening) -> None:
    page = visit(report).page
    read = "rows => rows.map(row => [...row.children].map(cell => cell.textContent))"
    before = page.eval_on_selector_all("#accuracies tbody tr", read)
    header(page, "l2 0.5 pgd").get_by_role("button").click()
    after = page.eval_on_selector_all("#accuracies tbody tr", read)
    assert sorted(after) == sorted(before)
    assert after != before


def test_everything_is_done_by_keyboard_too(report: Path, visit: Opening) -> None:
    page = visit(report).page
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the results")
    assert skip.evaluate("link => link === document.activeElement")
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#accuracies")
    focused: list[str] = []
    while focused[-1:] != ["l2 0.5 pgd"]:
        assert len(focused) < 10, focused
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.innerText.trim()"))
    assert focused[-4:] == ["model", "trust", "clean", "l2 0.5 pgd"]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert order(page) == ["net", "adv", "bcos", "Zebra"]
    page.keyboard.press("Space")
    assert order(page) == ["bcos", "adv", "net", "Zebra"]


def test_tables_images_and_sections_have_names_for_those_who_listen(report: Path, visit: Opening) -> None:
    page = visit(report).page
    caption = "Accuracy in percent of the images"
    assert page.get_by_role("table", name=caption).count() == 1
    assert page.get_by_role("region", name=caption).count() == 1
    assert page.locator("#accuracies").get_by_role("rowheader", name="bcos", exact=True).count() == 1
    # Arrows are to be seen; aria-sort is to be heard.
    assert header(page, "clean").get_by_role("button", name="clean", exact=True).count() == 1
    assert page.get_by_role("img", name="Robust accuracy over epsilon").count() == 1
    assert page.get_by_role("navigation", name="Contents").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(...)`` as WCAG 2 defines it."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def colour(page: Any, selector: str, name: str = "color") -> float:
    return luminance(page.eval_on_selector(selector, f"element => getComputedStyle(element)['{name}']"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_both_readable(scheme: str, report: Path, visit: Opening) -> None:
    page = visit(report, color_scheme=scheme).page
    paper = colour(page, "body", "backgroundColor")
    assert (paper > 0.5) is (scheme == "light")
    for selector in ("body", ".lead", "caption", "figcaption", ".interval", "nav a", "th button", "pre", "dt"):
        ink = colour(page, selector)
        ratio = (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05)
        # WCAG 2 level AA for text of ordinary size.
        assert ratio >= 4.5, (selector, ratio)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_only_tables_scroll_sideways(width: int, report: Path, visit: Opening) -> None:
    page = visit(report, viewport={"width": width, "height": 800}).page
    for details in page.locator("summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_on_a_phone_every_number_is_within_the_window_beside_its_name(report: Path, visit: Opening) -> None:
    page = visit(report, viewport={"width": 390, "height": 800}).page
    for cell in page.locator("#accuracies td").all():
        if cell.inner_text():
            box = cell.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
            name = cell.evaluate("cell => getComputedStyle(cell, '::before').content")
            assert name.strip('"') == cell.get_attribute("data-label")
    assert page.locator("#accuracies").get_by_role("rowheader", name="bcos", exact=True).count() == 1
    header(page, "l2 0.5 pgd").get_by_role("button").click()
    assert order(page) == ["net", "adv", "bcos", "Zebra"]


def test_a_wide_table_shows_that_it_goes_on_and_trust_is_not_beyond_the_edge(visit: Opening, tmp_path: Path) -> None:
    rows = [record("net", 100, eps=0.25 * step) for step in range(1, 25)]
    file = tmp_path / "report.html"
    file.write_text(render(run_of(rows), []), encoding="utf-8")
    page = visit(file, viewport={"width": 1280, "height": 800}).page
    scroll = page.locator("#accuracies .scroll")
    assert scroll.evaluate("element => element.scrollWidth > element.clientWidth")
    assert scroll.evaluate("element => getComputedStyle(element).backgroundImage").count("linear-gradient") == 4
    right = scroll.bounding_box()["x"] + scroll.bounding_box()["width"]
    trust = header(page, "trust").bounding_box()
    assert trust["x"] + trust["width"] < right


# Image by image


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two models under two attacks with a thousand images each."""
    folder = tmp_path_factory.mktemp("many")
    rows = [record(model, 100, eps=eps) for model in ("net", HOSTILE[0]) for eps in (NEAR, FAR)]
    outcomes = ["rbem" * 250, "bbbb" * 250, "rrrr" * 250, "mmmm" * 250]
    images = [
        row
        for number, (one, outcome) in enumerate(zip(rows, outcomes, strict=True))
        for row in images_of(f"cell {number}", one["model"], outcome, labels=[image % 3 for image in range(1000)])
    ]
    run = run_of(rows, folder, pictures={0: [picture(3), picture(14)]}, image_rows=images, names=(*HOSTILE[:3], "deer"))
    file = folder / "report.html"
    file.write_text(render(run, []), encoding="utf-8")
    return file


def shown(page: Any) -> list[list[str]]:
    """The lines that are shown, cell by cell."""
    read = "rows => rows.map(row => [...row.children].map(cell => cell.textContent))"
    lines: list[list[str]] = page.eval_on_selector_all("#images tbody tr", read)
    return lines


def test_images_of_one_model_under_one_attack_are_listed_first(many: Path, visit: Opening) -> None:
    visited = visit(many)
    page = visited.page
    assert page.locator("#found").inner_text() == (
        "1000: 250 broken, 250 broken by something else, 250 misclassified without an attack, 250 robust."
    )
    lines = shown(page)
    assert len(lines) == 50
    cat, ship, frog = HOSTILE[:3]
    attack = "l2 0.5 pgd, 20 steps"
    assert lines[0] == ["image 0", "net", attack, cat, cat, cat, "robust", "0.1235", ""]
    assert lines[1] == ["image 1", "net", attack, ship, ship, "deer", "broken", "0.1235", ""]
    assert lines[2] == ["image 2", "net", attack, frog, frog, frog, "broken by something else", "0.1235", ""]
    assert lines[3][3:7] == [cat, frog, "", "misclassified without an attack"]
    assert visited.said == []
    assert [url for url in visited.requested if not url.startswith("data:")] == [many.as_uri()]


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"outcome": "broken"}, "250: 250 broken."),
        (
            {"class": HOSTILE[0]},
            "334: 83 broken, 83 broken by something else, 84 misclassified without an attack, 84 robust.",
        ),
        ({"attack": "l2 1.5 pgd, 20 steps"}, "1000: 1000 broken."),
        ({"model": HOSTILE[0]}, "1000: 1000 robust."),
        ({"model": HOSTILE[0], "outcome": "broken"}, "None."),
        (
            {"model": "all models"},
            "2000: 250 broken, 250 broken by something else, 250 misclassified without an attack",
        ),
    ],
)
def test_images_are_filtered(chosen: dict[str, str], found: str, many: Path, visit: Opening) -> None:
    page = visit(many).page
    for name, text in chosen.items():
        page.locator(f"#images [name={name}]").select_option(label=text)
    assert page.locator("#found").inner_text().startswith(found)
    assert len(shown(page)) == min(50, int(found.split(":")[0]) if ":" in found else 0)


def test_only_classes_that_images_have_can_be_chosen(many: Path, visit: Opening) -> None:
    classes = visit(many).page.locator("#images [name=class] option").all_inner_texts()
    assert classes == ["all classes", *HOSTILE[:3]]


def test_a_thousand_images_of_every_cell_are_found_in_no_time(many: Path, visit: Opening) -> None:
    page = visit(many).page
    page.locator("#images [name=attack]").select_option("")
    spent = page.evaluate(
        """() => {
            const model = document.querySelector("#images [name=model]");
            model.value = "";
            const began = performance.now();
            model.dispatchEvent(new Event("change"));
            document.body.offsetHeight;
            return performance.now() - began;
        }"""
    )
    assert page.locator("#found").inner_text().startswith("4000: ")
    # A tenth of a second is felt as at once; this machine may be doing something else.
    assert spent < 1000


def test_more_images_are_shown_when_asked_for_and_the_keyboard_goes_on_there(many: Path, visit: Opening) -> None:
    page = visit(many).page
    more = page.locator("#images button[name=more]")
    assert more.inner_text() == "Show 50 more"
    more.click()
    assert [line[0] for line in shown(page)] == [f"image {number}" for number in range(100)]
    assert page.evaluate("document.activeElement.firstChild.textContent") == "image 50"
    page.locator("#images [name=outcome]").select_option("b")
    page.locator("#images [name=class]").select_option(label=HOSTILE[0])
    more.click()
    assert not more.is_visible()
    assert len(shown(page)) == 83


def test_images_with_pictures_show_their_own(many: Path, visit: Opening) -> None:
    page = visit(many).page
    tiles = page.locator("#images .tiles")
    assert [one.get_attribute("aria-label") for one in tiles.all()] == [
        f"Image {image}: image; attacked; difference; explanation; explanation, attacked" for image in (3, 14)
    ]
    for place, one in enumerate(tiles.all()):
        assert one.evaluate("tile => getComputedStyle(tile).backgroundPositionY") == f"{100 * place}%"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_images_fit_into_the_window(width: int, many: Path, visit: Opening) -> None:
    page = visit(many, viewport={"width": width, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_scripts_the_page_says_what_is_missing(many: Path, visit: Opening) -> None:
    page = visit(many, java_script_enabled=False).page
    assert page.get_by_text("Looking through images needs JavaScript").is_visible()
    assert not page.locator("#images select").first.is_visible()


def test_what_is_folded_is_printed_and_found_by_links(report: Path, visit: Opening) -> None:
    page = visit(report).page
    panels = page.locator("#models details")
    assert panels.count() == 1
    assert not panels.locator("img").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert panels.locator("img").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not panels.locator("img").is_visible()


def test_a_link_to_a_check_unfolds_what_the_page_says_of_it(visit: Opening, tmp_path: Path) -> None:
    run = run_of([record("net", 1, trust="suspect")])
    run = replace(run, evidence=pd.DataFrame([outcome("cell 0", "noise", "undermined", 2)]))
    file = tmp_path / "report.html"
    file.write_text(render(run, []), encoding="utf-8")
    page = visit(file).page
    assert not page.locator("#check-noise").is_visible()
    page.locator("#evidence tbody a").click()
    assert page.locator("#check-noise").is_visible()
    assert page.url == f"{file.as_uri()}#check-noise"


def test_a_long_name_of_a_data_set_breaks_too(visit: Opening, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    run = run_of([record(LONG, 1, dataset="folder:" + LONG, training=LONG)], started=LONG)
    file.write_text(render(run, []), encoding="utf-8")
    page = visit(file, viewport={"width": 390, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_it_prints_dark_on_white_without_what_paper_cannot_do(report: Path, visit: Opening) -> None:
    page = visit(report, color_scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert colour(page, "body", "backgroundColor") == 1
    assert colour(page, "body") < 0.1
    assert not page.get_by_role("navigation", name="Contents").is_visible()
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF-")
    assert len(printed) > 10_000


def test_tables_of_two_norms_fit_on_paper(visit: Opening, tmp_path: Path) -> None:
    threats = [(norm, eps, steps) for norm in ("l2", "linf") for eps in (0.25, 0.5, 1.0) for steps in (20, 100)]
    rows = [
        record(model, 100, norm=norm, eps=eps, steps=steps)
        for model in ("digits-natural", "digits-bcos-adv-l2")
        for norm, eps, steps in threats
    ]
    file = tmp_path / "report.html"
    file.write_text(render(run_of(rows), []), encoding="utf-8")
    # A4 between margins of 1 cm, in pixels of 1/96 inch.
    page = visit(file, viewport={"width": 718, "height": 1000}).page
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718


def test_it_is_read_without_scripts(report: Path, visit: Opening) -> None:
    page = visit(report, java_script_enabled=False).page
    assert page.get_by_role("table").count() == 2
    assert header(page, "clean").is_visible()


def test_names_run_nothing(visit: Opening, tmp_path: Path) -> None:
    together = " ".join(HOSTILE)
    rows = [record(name, 1, training=name, **(explained({"attack": 0.5}) | {"explanation": name})) for name in HOSTILE]
    rows[0]["dataset"] = together
    run = run_of(rows, similarities=similarities_of("cell 0", {"attack": [0.5]}), command=together)
    file = tmp_path / "report.html"
    file.write_text(render(run, []), encoding="utf-8")
    visited = visit(file)
    for button in visited.page.locator("th button").all():
        button.click()
    assert visited.page.locator("h3").all_inner_texts() == list(HOSTILE)
    assert visited.page.title() == f"Robustness of {len(HOSTILE)} models on {together} under pgd"
    assert visited.said == []
    assert visited.requested == [file.as_uri()]


def test_what_would_slip_in_all_the_same_is_not_executed(report: Path, visit: Opening) -> None:
    visited = visit(report)
    visited.page.evaluate(
        """() => new Promise(done => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", '<img src="data:,no" onerror="window.ran = true">');
            document.body.lastChild.addEventListener("error", () => setTimeout(done));
        })"""
    )
    assert visited.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in said for said in visited.said)
