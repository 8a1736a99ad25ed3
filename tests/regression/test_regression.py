"""Forecasters of systems: what a field can express, contributions that sum, attacks on inputs, files, bad input."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from robustbench_bcos.cli import app
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.statistics import welch
from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.regression import study
from robustbench_bcos.regression.attack import ErrorAbove, attack, errors, free_inputs, scores, true_response
from robustbench_bcos.regression.cards import ForecasterCard, forecasters_in
from robustbench_bcos.regression.data import Scale, Trajectories, make_trajectories, read_trajectories
from robustbench_bcos.regression.explain import contributions
from robustbench_bcos.regression.files import read_forecaster, write_forecaster
from robustbench_bcos.regression.recipe import SUITES, Recipe, Suite
from robustbench_bcos.regression.study import Tables, run_forecasters, split, train_suite, trainings_of
from robustbench_bcos.regression.training import Trained, make_forecaster, train
from robustbench_bcos.reports.baseline import write_baseline
from robustbench_bcos.reports.dynamics import contributions_over_time, phase_portraits, trajectory_bands, violins
from robustbench_bcos.reports.results import certificate_of, read_results

SYSTEM = "lotka_volterra"
POINTS = 6
DATA = make_trajectories(SYSTEM, 6, points=POINTS, spread=0.1)
KINDS = [("field", "bcos"), ("direct", "bcos"), ("field", "conventional"), ("direct", "conventional")]


def make_recipe(**changes: Any) -> Recipe:
    values = {"name": "one", "system": SYSTEM, "points": POINTS, "width": 12, "depth": 2, "iterations": 40, "b": 1.5}
    return Recipe.model_validate({**values, "rollout": 1, **changes})


def trained(**changes: Any) -> Trained:
    return train(make_recipe(**changes), DATA)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("solver", ["euler", "midpoint", "rk4"])
@pytest.mark.parametrize("b", [1.0, 2.5])
def test_contributions_of_states_parameters_and_drive_sum_to_every_prediction(
    b: float, solver: str, steps: int
) -> None:
    model = train(make_recipe(b=b, solver=solver, steps=steps, iterations=2), DATA)
    model.model.double()
    found = contributions(model, model.inputs(DATA).double())
    assert found.shares.shape == (6, POINTS, 2, 2 + 4 + 1)
    assert float(found.missing.abs().max()) < 1e-12 * float(found.outputs.abs().max() + 1)
    assert float(found.shares[..., -1].abs().max()) > 1e-3  # the drive's


def test_contributions_of_a_direct_regressor_sum_and_those_of_a_conventional_field_do_not() -> None:
    for kind, family in KINDS:
        model = train(make_recipe(kind=kind, family=family, iterations=5), DATA)
        missing = float(contributions(model, model.inputs(DATA)).missing.abs().max())
        assert (missing < 1e-5) == (family == "bcos"), (kind, family)


def test_contributions_sum_under_an_adaptive_solver() -> None:
    pytest.importorskip("torchode")
    model = train(make_recipe(solver="torchode", iterations=2), DATA)
    assert float(contributions(model, model.inputs(DATA)).missing.abs().max()) < 1e-5


@pytest.mark.parametrize("encoding", [True, False])
def test_a_field_without_encoding_is_homogeneous(encoding: bool) -> None:
    model = make_forecaster(make_recipe(encoding=encoding), DATA.times).double()
    inputs = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    doubled = torch.allclose(model(2 * inputs), 2 * model(inputs), rtol=1e-6)
    assert doubled is not encoding


@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_training_brings_the_error_down(kind: str, family: str) -> None:
    steps: list[float] = []
    train(make_recipe(kind=kind, family=family, iterations=150), DATA, on_step=lambda _, loss: steps.append(loss))
    assert steps[-1] < 0.5 * steps[0]


@pytest.mark.parametrize("rollout", [2, 100])
def test_rollouts_carry_a_field_over_points_and_no_further_than_there_are_any(rollout: int) -> None:
    one, several = (train(make_recipe(rollout=over, iterations=2), DATA).model.state_dict() for over in (1, rollout))
    assert not all(torch.equal(one[name], several[name]) for name in one)


def test_training_depends_on_the_seed_and_on_nothing_else() -> None:
    first, again, other = (trained(seed=seed, iterations=3).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("targets", ["initial", "parameters", "both"])
def test_an_attack_moves_what_it_may_within_the_threat_and_raises_the_error(norm: str, targets: str) -> None:
    model = trained()
    clean, truth = model.inputs(DATA), model.truth(DATA)
    tolerance = float(errors(model.model(clean), truth).max()) * 1.0001
    (found,) = attack(model, DATA, norm=norm, cells=[(0.1, targets)], tolerance=tolerance, steps=5)
    moved = found.inputs - clean
    assert bool((moved[:, ~free_inputs(2, 6, targets)] == 0).all())
    sizes = moved.norm(dim=1) if norm == "l2" else moved.abs().amax(dim=1)
    assert 0 < float(sizes.max()) < 0.1 * 1.0001
    assert bool(found.eligible.all())
    assert float(errors(found.outputs, truth).max()) > tolerance
    assert not bool(found.robust.all())


def test_what_is_wrong_already_is_not_attacked() -> None:
    model = trained(iterations=1)
    (found,) = attack(model, DATA, norm="l2", cells=[(0.1, "both")], tolerance=1e-6, steps=2)
    assert not bool(found.eligible.any() | found.robust.any())
    assert torch.equal(found.inputs, model.inputs(DATA))


def test_a_prediction_that_is_not_finite_is_a_success_and_the_response_of_the_system_is_its_own() -> None:
    criterion = ErrorAbove(0.5)
    outputs = torch.tensor([[0.0, 0.1], [1.0, 1.0], [torch.nan, 0.0]])
    assert criterion.success(outputs, torch.zeros(3, 2)).tolist() == [False, True, True]
    model = trained(iterations=1)
    inputs = model.inputs(DATA)
    assert float(true_response(model, DATA, inputs).max()) < 1e-4  # float32
    inputs[:, 0] += 0.1
    assert float(true_response(model, DATA, inputs).min()) > 1e-3


def test_scores_of_the_truth_and_of_the_mean() -> None:
    model = trained(iterations=1)
    truth = model.truth(DATA)
    perfect = scores(truth, truth, DATA)
    assert (perfect.mse, perfect.relative_error, perfect.r2) == (0, 0, 1)
    assert perfect.valid_time == pytest.approx(SYSTEMS[SYSTEM].end)
    mean = truth.view(6, POINTS, 2).mean(dim=(0, 1)).expand(6, POINTS, 2).flatten(1)
    assert scores(mean, truth, DATA).r2 == pytest.approx(0, abs=1e-6)
    assert scores(mean, truth, DATA).valid_time < 5


def test_files_give_the_forecaster_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    model = trained(iterations=2)
    write_forecaster(model, tuple(DATA.times.tolist()), tmp_path, None)
    read, card = read_forecaster(tmp_path / "one.toml")
    assert card.recipe == model.recipe
    assert torch.equal(read.model(read.inputs(DATA)), model.model(model.inputs(DATA)))
    content = (tmp_path / "one.toml").read_text()
    (tmp_path / "one.toml").write_text(content.replace("spread = 0.1", "spread = 0.2"))
    with pytest.raises(RequestError, match=r"one\.toml is not as it was written: train the model again"):
        read_forecaster(tmp_path / "one.toml")
    (tmp_path / "one.toml").write_text(content)
    (tmp_path / "one.safetensors").write_bytes(b"other")
    with pytest.raises(RequestError, match=r"have SHA-256 .* train the model again"):
        read_forecaster(tmp_path / "one.toml")


SUITE = Suite.model_validate(
    {
        "systems": [SYSTEM],
        "seeds": [0, 1],
        "all": {"iterations": 3, "width": 8, "depth": 2, "points": 4, "trajectories": 6, "tested": 3},
        "variations": {"bcos-field": {}, "conventional-field": {"family": "conventional"}},
        "threats": {"eps": [0.05], "targets": ["initial"], "tolerance": 10.0, "steps": 2},
    }
)


@pytest.fixture(scope="module")
def forecasters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Cards of the suite."""
    folder = tmp_path_factory.mktemp("forecasters")
    names = list(train_suite(trainings_of(SUITE), folder))
    assert len(names) == 4
    assert list(train_suite(trainings_of(SUITE), folder)) == []
    cards = forecasters_in(folder)
    assert sorted(card.stem for card in cards) == sorted(names)
    return cards


@pytest.fixture(scope="module")
def whole(forecasters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Tables, Path]:
    """What a run of them gives, and its folder."""
    out = tmp_path_factory.mktemp("whole")
    return run_forecasters(forecasters, SUITE.threats, out=out), out


def test_a_suite_is_trained_attacked_and_summarised(forecasters: list[Path], whole: tuple[Tables, Path]) -> None:
    tables, out = whole
    assert sorted(tables.results["model"].unique()) == sorted(card.stem for card in forecasters)
    assert len(tables.results) == 4 * 2
    summary = pd.read_csv(out / "summary.csv")
    bcos = summary[(summary["variation"] == "bcos-field") & (summary["norm"] == "l2")].iloc[0]
    own = tables.results[(tables.results["variation"] == "bcos-field") & (tables.results["norm"] == "l2")]
    assert bcos["trainings"] == 2
    assert bcos["relative_error"] == pytest.approx(own["relative_error"].mean())
    assert 0 <= bcos["p_relative_error"] <= 1
    assert np.isnan(summary[summary["variation"] == "conventional-field"]["p_r2"]).all()
    others = tables.results[(tables.results["variation"] != "bcos-field") & (tables.results["norm"] == "l2")]
    # One test for both norms, and one for each where there is an attack, which Holm corrects for.
    assert bcos["p_r2"] == pytest.approx(welch(own["r2"].tolist(), others["r2"].tolist()))
    measure = "attacked_relative_error"
    norms = summary[summary["variation"] == "bcos-field"][f"p_{measure}"]
    assert norms.max() == pytest.approx(min(1, 2 * welch(own[measure].tolist(), others[measure].tolist())), rel=0.2)


def test_an_interrupted_study_goes_on_with_the_forecasters_that_were_not_done(
    tmp_path: Path, forecasters: list[Path], whole: tuple[Tables, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards, attacked, done = forecasters, study._attacked, []

    def counted(trained: Trained, card: ForecasterCard, *others: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(card.recipe.name)
        return attacked(trained, card, *others)

    monkeypatch.setattr(study, "_attacked", counted)
    with pytest.raises(KeyboardInterrupt):
        run_forecasters(cards, SUITE.threats, out=tmp_path / "out")
    # The last one was being written when the power failed, and the first was under other threats.
    (tmp_path / "out" / study.KEPT / f"{done[2]}.json").write_text('{"of": ', encoding="utf-8")
    monkeypatch.setattr(study, "_attacked", attacked)
    run_forecasters(cards[:1], SUITE.threats.model_copy(update={"steps": 1}), out=tmp_path / "other")
    (tmp_path / "other" / study.KEPT / f"{done[0]}.json").rename(tmp_path / "out" / study.KEPT / f"{done[0]}.json")
    told: list[str] = []
    again = MagicMock(wraps=attacked)
    monkeypatch.setattr(study, "_attacked", again)
    run_forecasters(cards, SUITE.threats, out=tmp_path / "out", when_done=told.append)
    assert again.call_count == len(cards) - 1
    assert told == [card.stem for card in cards]
    for name in ("results.csv", "trajectories.csv", "contributions.csv", "summary.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (whole[1] / name).read_bytes()


def gate(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", *map(str, arguments)])
    return done.exit_code, done.output


def test_gate_and_comparison_read_a_study(tmp_path: Path, forecasters: list[Path]) -> None:
    threats, baseline = SUITE.threats.model_copy(update={"norms": ("l2",)}), tmp_path / "baseline.csv"
    results = run_forecasters(forecasters[:1], threats, out=tmp_path / "out").results
    assert gate(tmp_path / "out", "--baseline", baseline, "--update")[0] == 0
    assert json.loads(certificate_of(baseline).read_text())["threats"]["eps"] == [0.05]
    code, said = gate(tmp_path / "out", "--baseline", baseline)
    assert (code, "gate open: 1 held" in said) == (0, True)
    assert CliRunner().invoke(app, ["compare", str(tmp_path / "out")]).exit_code == 0
    # One trajectory is lost, of three.
    lost: dict[str, Any] = {"survivors": "110", **dict.fromkeys(("robust_correct", "worst_correct"), 2)}
    assert results["survivors"].tolist() == ["111"]
    write_csv = results.assign(**lost).to_csv(index=False)
    (tmp_path / "out" / "results.csv").write_text(write_csv)
    code, said = gate(tmp_path / "out", "--baseline", baseline)
    assert (code, "gate closed: 1 regressed" in said) == (1, True)
    (tmp_path / "out" / "provenance.json").write_text("[")
    with pytest.raises(RequestError, match=r"provenance.json is damaged: restore it"):
        write_baseline(read_results(tmp_path / "out"), baseline)


def test_figures_show_every_variation(whole: tuple[Tables, Path]) -> None:
    tables, _ = whole
    named = tables.trajectories.assign(variation=tables.trajectories["model"].str.extract("_volterra-(.*)-seed")[0])
    for figure in (trajectory_bands(named), phase_portraits(named)):
        labels = [str(line.get_label()) for line in figure.axes[0].lines]
        assert {"truth", "bcos-field", "conventional-field"} <= {*labels}
    assert [label.get_text() for label in violins(tables.results).axes[0].get_xticklabels()] == [
        "bcos-field",
        "conventional-field",
    ]
    one = tables.contributions[tables.contributions["model"] == tables.contributions["model"].iloc[0]]
    lines = {str(line.get_label()): line.get_ydata() for line in contributions_over_time(one).axes[0].lines}
    total = sum(np.asarray(values) for name, values in lines.items() if not name.startswith("prediction"))
    assert np.allclose(total, lines["prediction, their sum"], atol=1e-5)


def test_folds_leave_out_each_trajectory_once() -> None:
    folded = trainings_of(SUITE.model_copy(update={"folds": 3}))
    assert [one.fold for one in folded[:4]] == [None] * 4
    folded = folded[4:7]
    assert [one.model for one in folded] == [f"{SYSTEM}-bcos-field-fold{fold}" for fold in range(3)]
    tests = [split(one.recipe, one.fold)[1].states[:, 0, 0] for one in folded]
    assert len({*np.concatenate(tests)}) == 9
    for one, left_out in zip(folded, tests, strict=True):
        assert not {*left_out} & {*split(one.recipe, one.fold)[0].states[:, 0, 0]}


@pytest.mark.parametrize("name", SUITES.names())
def test_packaged_suites_name_systems_and_recipes_that_are_there(name: str) -> None:
    for recipe in SUITES.load(name).recipes():
        assert recipe.system in SYSTEMS
        assert make_forecaster(recipe, np.linspace(0, 1, recipe.points + 1))


def cli(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["dynamics", *map(str, arguments)])
    return done.output if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)


def test_the_verb_trains_runs_and_explains(tmp_path: Path) -> None:
    suite = tmp_path / "own.toml"
    suite.write_text(
        f'systems = ["{SYSTEM}"]\n[all]\niterations = 2\nwidth = 4\ndepth = 2\n'
        "points = 3\ntrajectories = 4\ntested = 2\n"
        '[variations]\n"bcos-field" = {}\n'
    )
    assert "1 forecasters are in" in cli("train", suite, "--out", tmp_path / "made")
    said = cli("study", suite, "--out", tmp_path / "all", "--no-figures")
    assert "1 forecasters are in" in said
    assert "Tables are in" in said
    options = ("--eps", "0.1", "--tolerance", "5", "--no-figures")
    said = cli("run", tmp_path / "made", *options, "--out", tmp_path / "out")
    assert "Tables are in" in said
    assert {"results.csv", "trajectories.csv"} <= {file.name for file in (tmp_path / "out").iterdir()}
    said = cli("explain", tmp_path / "made" / f"{SYSTEM}-bcos-field-seed0.toml", "--out", tmp_path / "why")
    assert "contributions sum to the prediction" in said
    assert SYSTEM in cli("systems")


def write_npz(file: Path, **changes: Any) -> Path:
    arrays = {"times": DATA.times, "states": DATA.states, "parameters": DATA.parameters} | changes
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return file


def test_trajectories_of_ones_own_are_read(tmp_path: Path) -> None:
    read = read_trajectories(write_npz(tmp_path / "own.npz"), SYSTEM)
    assert np.array_equal(read.states, DATA.states)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"states": np.where(DATA.states == DATA.states[1, 2, 0], np.nan, DATA.states)},
            "are NaN or infinite in 1 of 6",
        ),
        ({"times": DATA.times[::-1]}, "times must increase"),
        ({"states": DATA.states[..., :1]}, r"states of lotka_volterra must be of shape \(6, 7, 2\), got \(6, 7, 1\)"),
        ({"parameters": None}, "has no array .*parameters"),
    ],
)
def test_data_that_are_none_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said):
        read_trajectories(write_npz(tmp_path / "own.npz", **changes), SYSTEM)


def test_other_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="torchdiffeq chooses one step for all trajectories"):
        make_forecaster(make_recipe(solver="torchdiffeq"), DATA.times)
    with pytest.raises(RequestError, match="has no forecasters: give the folder that `dynamics train` wrote to"):
        run_forecasters(forecasters_in(tmp_path), SUITE.threats, out=tmp_path / "out")
    assert "greater than 0" in cli("run", tmp_path, "--tolerance", "0")
    assert "--data and --system belong together" in cli("run", tmp_path, "--data", "own.npz")
    assert "unknown suite of dynamics 'regresion': did you mean 'regression'" in cli("train", "regresion")
    with pytest.raises(RequestError, match="recipe one is of lotka_volterra, and the data of brusselator"):
        train(make_recipe(), make_trajectories("brusselator", 2, points=2, spread=0.1))


def test_states_outside_the_range_are_counted(tmp_path: Path) -> None:
    list(train_suite(trainings_of(SUITE)[:1], tmp_path))
    far = Trajectories(
        system=SYSTEM,
        times=np.linspace(0, 5, 5),
        states=30 + np.repeat(DATA.states[:2, :1], 5, 1),
        parameters=DATA.parameters[:2],
    )
    row = run_forecasters(forecasters_in(tmp_path), SUITE.threats, out=tmp_path / "out", data=far).results.iloc[0]
    assert row["inputs_outside"] == 2
    assert row["outside"] > 0
    assert Scale.of(far.states).low.shape == (2,)
