"""What the documentation tells people to put into their CI runs, word for word."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.command_line import call, succeed

ROOT = Path(__file__).parents[1]
EXAMPLES = ("docs/examples/github.yml", "docs/examples/gitlab.yml")
ACTION = ".github/actions/check/action.yml"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


NETS = """
import torch

SLOPE = 5.0


class Brightness(torch.nn.Module):
    def forward(self, images):
        bright = SLOPE * (images.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], dim=1)


def make():
    return Brightness()
"""
"""A model of a user's: two classes, as dark and bright as 8/255 cannot change."""


@pytest.fixture
def project(here: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What a user's repository has: a package with a network, and a folder of images."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("my_package").mkdir()
    Path("my_package/__init__.py").touch()
    Path("my_package/nets.py").write_text(NETS, encoding="utf-8")
    for name, level in (("dark", 100), ("light", 150)):
        Path("tests/images", name).mkdir(parents=True)
        for number in range(4):
            pixels = [level + 3 * number] * 3
            Image.new("RGB", (8, 8), tuple(pixels)).save(Path("tests/images", name, f"{number}.png"))
    yield Path("my_package/nets.py")
    for name in ("my_package", "my_package.nets"):
        sys.modules.pop(name, None)


def commands(file: str) -> list[list[str]]:
    """Arguments of every command of this package in a file."""
    found = re.findall(r"python -m robustbench_bcos (.+)", (ROOT / file).read_text(encoding="utf-8"))
    return [shlex.split(line.split(" #")[0]) for line in found]


def action_scripts() -> list[str]:
    return re.findall(r"^ {6}run: (.+)$", (ROOT / ACTION).read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_examples_are_the_commands_of_the_documentation() -> None:
    documented = commands("docs/gate.md")
    assert commands(EXAMPLES[0]) == commands(EXAMPLES[1])
    assert [line for line in commands(EXAMPLES[0]) if line in documented] == commands(EXAMPLES[0])


def test_the_gate_is_open_until_the_users_model_has_become_worse(project: Path) -> None:
    # Both examples have the commands of the documentation.
    run, check = commands(EXAMPLES[0])
    succeed(*run)
    succeed("check", "robustness", "--baseline", "tests/baseline.csv", "--update")
    # On the next push the checkout is fresh.
    shutil.rmtree("robustness")
    succeed(*run)
    outcome = call(*check)
    assert outcome.code == 0, outcome.err
    assert "gate open: 1 held" in outcome.out
    assert Path("robustness/gate.xml").is_file()
    shutil.rmtree("robustness")
    sys.modules["my_package.nets"].SLOPE = -5.0
    succeed(*run, "--skip-model-checks")
    assert call(*check).code == 1


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_install_nothing_from_an_index_that_is_on_none(example: str) -> None:
    installed = re.findall(r"pip install (.+)", (ROOT / example).read_text(encoding="utf-8"))
    assert installed == ["./harness"]


@pytest.mark.parametrize(("steps", "status"), [("1", 0), ("30", 1)])
def test_action_runs_and_checks(steps: str, status: int) -> None:
    run, check = action_scripts()
    # Without evidence, which breaks what the weaker of two attacks has not.
    attack = "--model digits-natural --norm l2 --eps 0.6 --limit 40 --no-figures --evidence off"
    attack += " --attack pgd --step-size 0.05 --steps"
    succeed("run", *shlex.split(attack), "1", "--out", "first")
    succeed("check", "first", "--baseline", "base.csv", "--update")
    # The number of steps tells rows apart; a baseline that claims as many is one that a stronger attack regresses from.
    baseline = Path("base.csv").read_text(encoding="utf-8").replace(",0.6,1,0.05,", f",0.6,{steps},0.05,")
    Path("base.csv").write_text(baseline, encoding="utf-8")
    # It knows the baseline as it was written.
    Path("base.csv.birth.json").unlink()
    python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"RUN": f"{attack} {steps}", "OUT": "now", "BASELINE": "base.csv", "CHECK": ""}
    environment |= {"PATH": python, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(["bash", "-ec", run], env=environment, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(["bash", "-ec", check], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert ("gate open" if status == 0 else "gate closed") in done.stdout
