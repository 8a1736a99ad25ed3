"""What the documentation tells people to put into their CI runs, word for word."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command_line import call, succeed

ROOT = Path(__file__).parents[1]
EXAMPLES = ("docs/examples/github.yml", "docs/examples/gitlab.yml")
ACTION = ".github/actions/check/action.yml"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def commands(file: str) -> list[list[str]]:
    """Arguments of every command of this package in a file."""
    found = re.findall(r"python -m robustbench_bcos (.+)", (ROOT / file).read_text(encoding="utf-8"))
    return [shlex.split(line.split(" #")[0]) for line in found]


def action_scripts() -> list[str]:
    return re.findall(r"^ {6}run: (.+)$", (ROOT / ACTION).read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_examples_are_the_commands_of_the_documentation() -> None:
    documented = commands("docs/gate.md")
    for example in EXAMPLES:
        assert [line for line in commands(example) if line in documented] == commands(example)


def test_examples_open_the_gate_for_the_run_that_made_the_baseline() -> None:
    run, check = commands(EXAMPLES[0])
    succeed(*run)
    succeed("check", "robustness", "--baseline", "tests/baseline.csv", "--update")
    outcome = call(*check)
    assert outcome.code == 0, outcome.err
    assert "gate open: 7 held" in outcome.out
    assert Path("robustness/gate.xml").is_file()


@pytest.mark.parametrize(("steps", "status"), [("1", 0), ("30", 1)])
def test_action_runs_and_checks(steps: str, status: int) -> None:
    run, check = action_scripts()
    attack = "--model digits-natural --norm l2 --eps 0.6 --limit 40 --no-figures --attack pgd --step-size 0.05 --steps"
    succeed("run", *shlex.split(attack), "1", "--out", "first")
    succeed("check", "first", "--baseline", "base.csv", "--update")
    # The number of steps tells rows apart; a baseline that claims as many is one that a stronger attack regresses from.
    baseline = Path("base.csv").read_text(encoding="utf-8").replace(",0.6,1,0.05,", f",0.6,{steps},0.05,")
    Path("base.csv").write_text(baseline, encoding="utf-8")
    python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"RUN": f"{attack} {steps}", "OUT": "now", "BASELINE": "base.csv", "CHECK": ""}
    environment |= {"PATH": python, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(["bash", "-ec", run], env=environment, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(["bash", "-ec", check], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert ("gate open" if status == 0 else "gate closed") in done.stdout
