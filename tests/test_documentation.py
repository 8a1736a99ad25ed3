"""The documentation's Python runs as it is, and pages outside the site have no broken link."""

import doctest
import re
from pathlib import Path

import pytest

from robustbench_bcos.bench.store import LAYOUT, RELEASES
from robustbench_bcos.core.version import VERSION

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if ">>>" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_give_what_the_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    # Fences are not part of what is expected.
    text = page.read_text(encoding="utf-8").replace("```pycon\n", "\n").replace("```\n", "\n")
    examples = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    runner.run(examples, out=told.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)
    assert examples.examples


def test_some_pages_have_examples() -> None:
    assert [page.name for page in PAGES] == ["python.md"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_pages_outside_the_site_link_to_files_that_exist(page: str) -> None:
    """``mkdocs build --strict`` sees to the links of all others."""
    text = (DOCS.parent / page).read_text(encoding="utf-8")
    files = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [file for file in files if not (DOCS.parent / file).exists()] == []
    assert files


@pytest.mark.parametrize("page", sorted(DOCS.glob("adr/*.md")), ids=lambda page: page.stem[:4])
def test_what_keeps_a_decision_is_there(page: Path) -> None:
    kept_by = page.read_text(encoding="utf-8").partition("**Kept by** ")[2]
    files = re.findall(r"`((?:tests|benchmarks)/[^`]+)`", kept_by)
    assert [file for file in files if not (DOCS.parent / file).exists()] == []
    assert files


def test_the_page_says_which_version_reads_which_store() -> None:
    text = (DOCS / "running.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \|$", text, flags=re.MULTILINE)
    assert {int(layout): version for layout, version in rows} == RELEASES | {LAYOUT: VERSION}
