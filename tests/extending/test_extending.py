"""Each file of this folder adds one thing, and is used as somebody outside the package would: by its name."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import robustbench_bcos as rb
from robustbench_bcos.core.plugins import load_plugins
from robustbench_bcos.model_zoo.architectures.registry import build_architecture
from tests.bench.stages.test_fool import asked, found
from tests.cli.command_line import succeed

HERE = Path(__file__).parent

pytestmark = pytest.mark.usefixtures("registries")


def run(folder: Path, kind: str, *arguments: str) -> pd.DataFrame:
    """The results of a small run that loads the file of a kind."""
    command = [sys.executable, "-m", "robustbench_bcos", "run", "--plugin", str(HERE / f"own_{kind}.py")]
    command += ["--limit", "20", "--steps", "3", "--no-figures", "--quiet", "--jobs", "1", "--out", str(folder / "run")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(folder / "run" / "results.csv", keep_default_na=False)


MODEL = ("--model", "digits-natural")
UNCHECKED = ("--evidence", "off", "--eps", "0.5")
"""For what evidence asks no more of than the run."""


@pytest.mark.parametrize(
    ("kind", "arguments", "column", "value", "reasons"),
    [
        ("norm", (*MODEL, "--norm", "pixel_l2", "--eps", "0.2"), "norm", "pixel_l2", ""),
        ("loss", (*MODEL, "--loss", "mean_gap", *UNCHECKED), "loss", "mean_gap", ""),
        ("criterion", (*MODEL, "--criterion", "not_in_top:3"), "criterion", "not_in_top:3", ""),
        ("attack", (*MODEL, "--attack", "random_walk", "--option", "draws=30"), "options", "draws=30", "other_losses"),
        ("dataset", (*MODEL, "--dataset", "dim_digits:0.9", *UNCHECKED), "dataset", "dim_digits:0.9", ""),
        (
            "method",
            (*MODEL, "--explanation", "saliency", "--explained", "4", *UNCHECKED),
            "explanation",
            "saliency",
            "",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_file_adds_one_thing_to_the_command_line(
    tmp_path: Path, kind: str, arguments: tuple[str, ...], column: str, value: str, reasons: str
) -> None:
    rows = run(tmp_path, kind, *arguments)
    assert list(rows[column]) == [value]
    # A random walk finds less than Auto-PGD, and evidence says so.
    undermined = [reason for reason in rows["reasons"].item().split("; ") if reason and not reason.endswith("not done")]
    assert undermined == [reasons] * bool(reasons)
    assert rows["worst_correct"].item() <= rows["robust_correct"].item() <= rows["clean_correct"].item()


def test_a_check_of_ones_own_is_carried_out_and_judged(tmp_path: Path) -> None:
    rows = run(tmp_path, "check", *MODEL)
    evidence = pd.read_csv(tmp_path / "run" / "evidence.csv")
    own = evidence[evidence["check"] == "much_noise"]
    assert own["status"].item() in ("held", "repaired")
    assert own["examined"].item() > 0
    assert own["sentence"].item().endswith("broken by a hundred draws of noise and by no search along gradients")
    assert rows["trust"].item() == "sound"


def test_a_goal_of_ones_own_moves_maps() -> None:
    load_plugins([HERE / "own_goal.py"])
    rows = [row for row in found(asked(goal=("explanation:left_half",))) if row.attacked]
    assert {row.goal for row in rows} == {"left_half"}
    assert all(row.left is not None and row.left < 0.5 for row in rows if row.comparison == "explanation")


def test_a_protocol_of_ones_own_scores_maps_and_grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("--model", "digits-bcos-b2", "--grids", "4", "--condition", "clean", "--no-figures", "--quiet")
    succeed("localise", "--plugin", HERE / "own_protocol.py", "--protocol", "pointing", *asked, "--out", "run")
    rows = pd.read_csv("run/localisation.csv")
    assert rows["protocol"].item() == "pointing"
    assert set(pd.read_csv("run/cells.csv")["score"]) <= {0.0, 1.0}
    maps = torch.zeros(1, 4, 4, 4)
    maps[0, :, 0, 0] = 1
    assert rb.score_grids(maps, "pointing").tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("name", ["two_layers", "bcos_two_layers"])
def test_an_architecture_of_ones_own_reads_a_weights_file(tmp_path: Path, name: str) -> None:
    load_plugins([HERE / "own_architecture.py"])
    torch.manual_seed(0)
    channels = 6 if name.startswith("bcos_") else 3
    network = build_architecture(name, in_channels=channels, classes=10, arguments={})
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    weights = ("--weights", str(tmp_path / "weights.safetensors"), "--architecture", name, "--skip-model-checks")
    encoding = () if channels == 6 else ("--encoding", "none")
    rows = run(tmp_path, "architecture", *weights, *encoding, *UNCHECKED)
    assert list(rows["architecture"]) == [name]


def test_own_images_and_an_own_architecture_are_trained_converted_and_attacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [option for kind in ("dataset", "architecture") for option in ("--plugin", str(HERE / f"own_{kind}.py"))]
    Path("recipe.toml").write_text(
        'name = "dim"\nfamily = "bcos"\narchitecture = "bcos_two_layers"\ndataset = "dim_digits"\nclasses = 10\n'
        'image_size = [8, 8]\nloss = "bce"\nepochs = 1\nbatch_size = 64\noptimiser = "adam"\nlearning_rate = 5e-3\n'
        '[encoding]\nkind = "add_inverse"\n'
    )
    command = [sys.executable, "-m", "robustbench_bcos", "train", "recipe.toml", "--out", "zoo"]
    command += ["--seeds", "0..1", "--jobs", "2", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stated = ("--licence", "MIT", "--image-size", "8", "--name", "converted", "--out", "zoo")
    succeed("convert", "zoo/dim-seed0.safetensors", "--architecture", "bcos_two_layers", *stated, *files)
    asked = ("--zoo", "zoo", "--model", "dim-seed?,converted", "--dataset", "dim_digits", "--eps", "0.2")
    rows = run(tmp_path, "architecture", *files[:2], *asked)
    assert list(rows["model"]) == ["dim-seed0", "dim-seed1", "converted"]
    assert rows["robust_correct"][0] == rows["robust_correct"][2]


def test_the_same_from_python() -> None:
    batch = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = rb.load_model("digits-natural")
    labels = model(batch).argmax(dim=1)
    files = [HERE / f"own_{kind}.py" for kind in ("norm", "loss", "criterion", "attack")]
    rows = rb.evaluate(
        "digits-natural", batch, labels, norm="pixel_l2", eps=0.3, loss="mean_gap", steps=3, plugin=files
    )
    assert rows["norm"].item() == "pixel_l2"
    attack = rb.ATTACKS["random_walk"](draws=5)
    for criterion in ("misclassified", "not_in_top:2"):
        rows = rb.evaluate("digits-natural", batch, labels, norm="l2", eps=1.0, attack=attack, criterion=criterion)
        assert rows["attack"].item() == "random_walk"
        assert rows["criterion"].item() == criterion


def test_a_run_says_which_file_it_was_made_with_and_takes_no_other(tmp_path: Path) -> None:
    own = tmp_path / "own_loss.py"
    own.write_text((HERE / "own_loss.py").read_text(encoding="utf-8"), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "robustbench_bcos",
        "run",
        "--plugin",
        str(own),
        "--loss",
        "mean_gap",
        "--steps",
        "2",
    ]
    command += [*MODEL, "--limit", "10", "--no-figures", "--quiet", "--evidence", "off", "--out", str(tmp_path / "run")]
    assert subprocess.run(command, check=False).returncode == 0
    report = [sys.executable, "-m", "robustbench_bcos", "report", str(tmp_path / "run"), "--no-figures"]
    told = subprocess.run(report, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "made with plugin own_loss.py" in told.stderr.replace("\n", " ")
    assert subprocess.run([*report, "--plugin", str(own)], capture_output=True, check=False).returncode == 0
    own.write_text(own.read_text(encoding="utf-8") + "\n# another file\n", encoding="utf-8")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "belongs to another configuration (other plugins)" in again.stderr.replace("\n", " ")


def test_a_format_of_ones_own_is_compared_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = succeed("export", "digits-natural", "--format", "state_dict", "--plugin", HERE / "own_format.py")
    assert "Written to digits-natural.pth: torch.load reads it" in out
    assert "network.conv1.weight" in torch.load("digits-natural.pth", weights_only=True)
