"""``curves``: what logs of trainings become a figure, and what is refused."""

from pathlib import Path

import pytest

from tests.cli.command_line import refusal, succeed

LOG = "number,loss,accuracy,seconds\n1,0.5,0.5,1.0\n2,0.25,0.75,1.0\n"


@pytest.fixture
def logs(here: Path) -> Path:
    (here / "trained").mkdir()
    for name in ("net-seed0", "net-seed1", "bcos"):
        (here / "trained" / f"{name}.log.csv").write_text(LOG, encoding="utf-8")
    return here / "trained"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "3 trainings of 2 recipes: "),
        (["--model", "net-*"], "2 trainings of 1 recipe: "),
        (["--model", "bcos,net-seed1"], "2 trainings of 2 recipes: "),
    ],
)
def test_logs_of_a_folder_are_drawn(options: list[str], said: str, logs: Path) -> None:
    assert succeed("curves", logs, *options, "--figure", "deep/c.png") == f"{said}deep/c.png, deep/c.pdf\n"
    assert Path("deep/c.png").read_bytes().startswith(b"\x89PNG")
    assert Path("deep/c.pdf").read_bytes().startswith(b"%PDF")


def test_what_is_no_log_or_is_not_there_is_refused(logs: Path, here: Path) -> None:
    said = f"{here} has no logs of trainings (*.log.csv): give the folder that `train` wrote to"
    assert refusal("curves", here) == said
    assert refusal("curves", logs, "--model", "nett-*").startswith("unknown training 'nett-*': ")
    (logs / "bcos.log.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    assert refusal("curves", logs).startswith(f"{logs}/bcos.log.csv is no log of a training (")
    assert [file.name for file in here.iterdir()] == ["trained"]
