"""Trackers: a missing library is named before anything is attacked, and a run arrives with its numbers and files."""

import struct
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from robustbench_bcos.bench import tracker as trackers
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.foreseen import check_foreseeable
from robustbench_bcos.bench.tracker import Logged
from robustbench_bcos.bench.trackers import TRACKERS
from robustbench_bcos.core.errors import RequestError

METRIC = "torchvision:net/l2 0.5 pgd/robust_accuracy_worst"


@pytest.fixture
def run(tmp_path: Path) -> Logged:
    (tmp_path / "mine/figures").mkdir(parents=True)
    files = [tmp_path / "mine/results.csv", tmp_path / "mine/figures/curves.png"]
    for file in files:
        file.write_text(file.name, encoding="utf-8")
    return Logged(
        folder=tmp_path / "mine",
        key="0123",
        parameters={"dataset": "digits", "torchvision:net/l2 0.5 pgd/trust": "suspect: noise"},
        metrics={METRIC: 0.25},
        files=files,
    )


def client(name: str, monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A library that is not needed to see what it is told."""
    stub = MagicMock()
    monkeypatch.setitem(sys.modules, TRACKERS[name].library, stub)
    return stub


@pytest.mark.parametrize("name", TRACKERS)
def test_a_library_that_is_missing_is_named_with_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_package", lambda _: None)
    library = TRACKERS[name].library
    with pytest.raises(RequestError) as caught:
        check_foreseeable(make_config({"log": (name,)}))
    assert str(caught.value) == (
        f"log {name} needs {library}, which is not installed: pip install {library} (the extra {name} of this package)"
    )


def test_a_tracker_that_there_is_not_is_refused() -> None:
    with pytest.raises(RequestError, match="unknown log 'wandbb': did you mean 'wandb'"):
        make_config({"log": ("wandbb",)})


def test_tensorboard_gets_scalars_and_texts_in_the_runs_folder(run: Logged) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    TRACKERS["tensorboard"].log(run)
    (file,) = (run.folder / "tensorboard").iterdir()
    content, values = file.read_bytes(), []
    while content:
        # Length, its checksum, an event, its checksum.
        (length,) = struct.unpack("Q", content[:8])
        values += Event.FromString(content[12 : 12 + length]).summary.value
        content = content[16 + length :]
    scalars = {
        value.metadata.display_name or value.tag: value.simple_value for value in values if not value.tensor.dtype
    }
    assert list(scalars.values()) == [0.25]
    texts = [value.tensor.string_val[0].decode() for value in values if value.tensor.dtype]
    assert texts == list(run.parameters.values())


def test_wandb_gets_a_run_that_a_repetition_takes_up(run: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = client("wandb", monkeypatch)
    monkeypatch.setenv("WANDB_PROJECT", "thesis")
    TRACKERS["wandb"].log(run)
    asked = wandb.init.call_args.kwargs
    assert asked == {"project": "thesis", "id": "0123", "name": "mine", "config": run.parameters, "resume": "allow"}
    begun = wandb.init.return_value.__enter__.return_value
    begun.summary.update.assert_called_once_with(run.metrics)
    added = [(call.args[0], call.kwargs["name"]) for call in wandb.Artifact.return_value.add_file.call_args_list]
    assert added == [(str(run.files[0]), "results.csv"), (str(run.files[1]), "figures/curves.png")]
    begun.log_artifact.assert_called_once_with(wandb.Artifact.return_value)
    wandb.init.return_value.__exit__.assert_called_once()


def test_mlflow_gets_names_that_it_takes(run: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = client("mlflow", monkeypatch)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    TRACKERS["mlflow"].log(run)
    mlflow.set_experiment.assert_called_once_with("robustbench_bcos")
    mlflow.start_run.assert_called_once_with(run_name="mine")
    mlflow.log_metrics.assert_called_once_with({"torchvision-net/l2 0.5 pgd/robust_accuracy_worst": 0.25})
    mlflow.log_params.assert_called_once_with(
        {"dataset": "digits", "torchvision-net/l2 0.5 pgd/trust": "suspect: noise"}
    )
    sent = [(call.args[0], call.kwargs["artifact_path"]) for call in mlflow.log_artifact.call_args_list]
    assert sent == [(str(run.files[0]), None), (str(run.files[1]), "figures")]
