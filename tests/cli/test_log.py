"""What trackers are told: every row's numbers, never without its mark."""

from pathlib import Path
from unittest.mock import MagicMock

import pytest

from robustbench_bcos.bench.tracker import Logged
from robustbench_bcos.bench.trackers import TRACKERS
from robustbench_bcos.reports.logged import logged
from robustbench_bcos.reports.run_folder import read_run
from tests.cli.command_line import call, succeed


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Logged]:
    """What the tracker of this name is handed."""
    found: list[Logged] = []
    tracker = MagicMock(check=lambda: None, log=found.append)
    monkeypatch.setitem(TRACKERS._entries, "wandb", tracker)
    return found


def test_every_number_arrives_with_its_mark_and_files(tiny_zoo: Path, taken: list[Logged]) -> None:
    asked = ["run", "--zoo", tiny_zoo, "--model", "tiny-bcos", "--limit", 4, "--no-figures", "--quiet", "--out", "mine"]
    succeed(
        *asked, "--eps", "0.1,0.2", "--steps", "1,2", "--evidence", "off", "--attack", "pgd,noise", "--log", "wandb"
    )
    (sent,) = taken
    records = read_run(Path("mine")).records
    assert len(records) == 6
    numbers = {name: value for name, value in sent.metrics.items() if name.endswith("/robust_accuracy_worst")}
    assert list(numbers.values()) == records["robust_accuracy_worst"].tolist()
    # Noise has no steps: two rows that differ in steps alone are told apart by the whole cell.
    assert sum(name.startswith("tiny-bcos/l2 0.1 noise/") for name in numbers) == 1
    assert sum(name.startswith("tiny-bcos l2 0.1 pgd ") for name in numbers) == 2
    assert [value for name, value in sent.metrics.items() if name.endswith("/unchecked")] == [1.0] * 6
    assert {value for name, value in sent.parameters.items() if name.endswith("/trust")} == {"unchecked"}
    assert sent.parameters["dataset"] == "digits"
    assert Path("mine/results.csv") in sent.files
    assert logged(read_run(Path("mine")), ()).key == sent.key


def test_a_tracker_that_fails_loses_nothing(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MagicMock(check=lambda: None)
    tracker.log.side_effect = ConnectionError("no route")
    monkeypatch.setitem(TRACKERS._entries, "wandb", tracker)
    asked = ["run", "--zoo", tiny_zoo, "--model", "tiny-bcos", "--limit", 2, "--no-figures", "--out", "mine"]
    code, out, err = call(*asked, "--steps", 1, "--evidence", "off", "--log", "wandb", "--quiet")
    assert (code, out) == (1, "mine/results.csv\n")
    assert err == (
        "error: the run is complete in mine, and wandb did not take it (ConnectionError: no route): repeat the same "
        "command to send it again\n"
    )
