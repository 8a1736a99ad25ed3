"""Links that somebody has put into a run folder lead nothing outside of it; that the folder is one is its user's."""

import shutil
from pathlib import Path

import pytest

from tests.cli.command_line import call, refusal, succeed

OPTIONS = "--eps 0.5 --steps 1 --limit 4 --explained 2 --evidence off --model tiny-natural --save-adversarials --quiet"


@pytest.fixture(scope="module")
def command(tiny_zoo: Path) -> list[str]:
    return ["run", *OPTIONS.split(), "--zoo", str(tiny_zoo), "--out"]


@pytest.fixture(scope="module")
def finished(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    succeed(*command, folder)
    return folder


@pytest.fixture
def run(finished: Path, here: Path) -> Path:
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "precious").write_text("precious")
    return shutil.copytree(finished, here / "run")


def untouched(here: Path) -> bool:
    (file,) = (here / "elsewhere").iterdir()
    return file.read_text() == "precious"


def planted(run: Path, name: str, target: Path) -> None:
    place = run / name
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(target)


@pytest.mark.parametrize(
    "name",
    ["figures", "adversarials", "adversarials/tiny-natural", "adversarials/tiny-natural/l2-0.5-pgd/pictures"],
)
def test_a_folder_that_is_a_link_is_refused(name: str, command: list[str], run: Path, here: Path) -> None:
    planted(run, name, here / "elsewhere")
    said = f"run/{name} is a link, and nothing is written through links: remove it, or choose another folder"
    assert refusal(*command, "run") == said
    if name == "figures":
        assert refusal("report", "run") == said
    assert untouched(here)


@pytest.mark.parametrize("ending", ["", "-journal", "-wal", "-shm"])
def test_what_sqlite_writes_beside_a_store_is_no_link(ending: str, command: list[str], run: Path, here: Path) -> None:
    for target in ("precious", "new") if ending else ("precious",):
        planted(run, f"run.sqlite{ending}", here / "elsewhere" / target)
        assert f"run.sqlite{ending} is a link, and nothing is written through links" in refusal(*command, "run")
    assert untouched(here)


def test_a_journal_that_names_another_file_is_not_rolled_back(command: list[str], run: Path) -> None:
    (run / "run.sqlite-journal").write_bytes(bytes(600) + bytes.fromhex("d9d505f920a163d7"))
    assert "run.sqlite-journal is of several databases, which a run has not: remove it" in refusal(*command, "run")


def test_files_that_are_links_are_replaced(command: list[str], run: Path, here: Path) -> None:
    files = ["results.csv", "report.html", "run.json", "figures/accuracy_over_epsilon_l2-pgd.png"]
    files += ["adversarials/tiny-natural/l2-0.5-pgd/adversarials.npz"]
    for name in files[:2] + files[3:]:
        assert (run / name).is_file(), name
        planted(run, name, here / "elsewhere" / "precious")
    succeed(*command, "run")
    assert untouched(here)
    assert not any((run / name).is_symlink() for name in files)


def test_the_folder_of_a_run_may_be_a_link(command: list[str], run: Path, here: Path) -> None:
    (here / "scratch").symlink_to(run)
    assert call(*command, "scratch").code == 0
    succeed("report", "scratch", "--no-figures")


def test_a_report_in_another_folder_follows_no_link(run: Path, here: Path) -> None:
    (here / "report").mkdir()
    shutil.copy(run / "results.csv", here / "report")
    (here / "report" / "figures").symlink_to(here / "elsewhere")
    assert "report/figures is a link" in refusal("report", "run", "--out", "report")
    assert untouched(here)
