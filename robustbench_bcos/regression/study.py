"""Many forecasters: trained from a suite, each attacked in the same way, and what came of it as tables."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.disk import made, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.statistics import summarise, welch, wilson
from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.regression.attack import ErrorAbove, attack, outside, scores, true_response
from robustbench_bcos.regression.data import Trajectories, make_trajectories, write_trajectories
from robustbench_bcos.regression.explain import contributions
from robustbench_bcos.regression.files import ForecasterCard, forecasters_in, read_forecaster, write_forecaster
from robustbench_bcos.regression.recipe import Recipe, Suite, Threats
from robustbench_bcos.regression.training import Trained, train

SHOWN = 1
"""Trajectories of the test that are written point by point."""


class Training(NamedTuple):
    """One forecaster that is asked for."""

    recipe: Recipe
    fold: tuple[int, int] | None = None

    @property
    def model(self) -> str:
        """What it is called."""
        return self.recipe.name


def trainings_of(suite: Suite) -> list[Training]:
    """Every variation, system and seed; with folds, each fold in place of each seed."""
    if suite.folds is None:
        return [Training(recipe) for recipe in suite.recipes()]
    first = suite.model_copy(update={"seeds": suite.seeds[:1]}).recipes()
    return [
        Training(
            recipe.model_copy(update={"name": f"{recipe.name.rpartition('-seed')[0]}-fold{fold}"}), (fold, suite.folds)
        )
        for recipe in first
        for fold in range(suite.folds)
    ]


@cache
def _made(system: str, count: int, points: int, spread: float) -> Trajectories:
    return make_trajectories(system, count, points=points, spread=spread)


def split(recipe: Recipe, fold: tuple[int, int] | None) -> tuple[Trajectories, Trajectories]:
    """Trajectories to train on, and those for the test; the same for all models of a system.

    Args:
        recipe: how many there are of each.
        fold: (i, n) keeps every n-th for the test, from the i-th on.
    """
    everything = _made(recipe.system, recipe.trajectories + recipe.tested, recipe.points, recipe.spread)
    count = len(everything)
    tested = set(range(max(1, count - recipe.tested), count) if fold is None else range(fold[0], count, fold[1]))
    kept = [position for position in range(count) if position not in tested]
    return everything.select(kept), everything.select(sorted(tested))


def train_suite(trainings: Sequence[Training], folder: Path, jobs: int = 1) -> Iterator[str]:
    """Make the forecasters that are not there yet, and give the name of each when it is done.

    Args:
        trainings: what to train.
        folder: where to write cards, weights and data.
        jobs: so many at a time, each in a process of its own with one thread.
    """
    made(folder)
    for recipe in {training.recipe.system: training.recipe for training in trainings}.values():
        write_trajectories(split(recipe, None)[0], folder)
    waiting = [training for training in trainings if not _is_made(training, folder)]
    make = partial(_make, folder=folder)
    if jobs == 1:
        yield from map(make, waiting)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for done in as_completed([pool.submit(make, training) for training in waiting]):
            yield done.result()


def _is_made(training: Training, folder: Path) -> bool:
    file = folder / f"{training.model}.toml"
    if not file.is_file():
        return False
    if read_forecaster(file)[1].recipe != training.recipe:
        raise RequestError(f"{file} was made by another recipe: remove it to train it again, or choose another folder")
    return True


def _make(training: Training, folder: Path) -> str:
    data, _ = split(training.recipe, training.fold)
    trained = train(training.recipe, data)
    write_forecaster(trained, tuple(data.times.tolist()), folder, training.fold)
    return training.model


class Tables(NamedTuple):
    """What a run of forecasters gives."""

    results: pd.DataFrame
    """A row for each model, and threat, and target of the attack."""
    trajectories: pd.DataFrame
    """True, predicted and attacked states of the first test trajectory, by model, time and state."""
    contributions: pd.DataFrame
    """Of the same trajectory: what each input and the drive contribute to each state."""
    summary: pd.DataFrame
    """Mean and deviation over trainings, and Welch's test of B-cos against conventional."""


def run_forecasters(folder: Path, threats: Threats, out: Path, data: Trajectories | None = None) -> Tables:
    """Attack and explain every forecaster of a folder, and write the tables as CSV.

    Args:
        folder: of cards and weights.
        threats: how they are attacked.
        out: where to.
        data: to be predicted; by default each model's own test trajectories.

    Raises:
        RequestError: there are no forecasters, an unknown norm, a radius that is none, or data of another system.
    """
    results: list[dict[str, object]] = []
    shown: list[pd.DataFrame] = []
    shares: list[pd.DataFrame] = []
    for file in forecasters_in(folder):
        trained, card = read_forecaster(file)
        test = split(card.recipe, card.fold)[1] if data is None else data
        _check_fit(card, test)
        rows, path = _attacked(trained, card, test, threats)
        results += rows
        shown.append(path)
        shares.append(explained(trained, test.select(range(min(SHOWN, len(test))))))
    frame = pd.DataFrame(results)
    tables = Tables(frame, pd.concat(shown), pd.concat(shares), summary_of(frame))
    made(out)
    for name, table in tables._asdict().items():
        write_text(out / f"{name}.csv", table.to_csv(index=False))
    return tables


def _check_fit(card: ForecasterCard, data: Trajectories) -> None:
    if data.system != card.recipe.system or not np.allclose(data.times, card.times):
        raise RequestError(
            f"{card.recipe.name} predicts {card.recipe.system} at {len(card.times)} times from {card.times[0]:g} to "
            f"{card.times[-1]:g}, and the data are of {data.system} at {len(data.times)} times: give its own"
        )


def _attacked(
    trained: Trained, card: ForecasterCard, data: Trajectories, threats: Threats
) -> tuple[list[dict[str, object]], pd.DataFrame]:
    recipe, truth = trained.recipe, trained.truth(data)
    inputs = trained.inputs(data)
    with torch.no_grad():
        clean = trained.model(inputs)
    variation = recipe.name.removeprefix(f"{recipe.system}-").rpartition("-")[0]
    described = {"model": recipe.name, "variation": variation, **recipe.model_dump(exclude={"name"})}
    right = int(ErrorAbove(threats.tolerance).correct(clean, truth).sum())
    common = {
        **described,
        "fold": "" if card.fold is None else card.fold[0],
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "tolerance": threats.tolerance,
        "total": len(data),
        "clean_correct": right,
        "clean_accuracy": right / len(data),
        **asdict(scores(clean, truth, data)),
        "outside": int(outside(trained, clean).sum()),
        "inputs_outside": int(((inputs < 0) | (inputs > 1)).any(dim=1).sum()),
    }
    rows: list[dict[str, object]] = []
    last = clean
    for norm, eps, targets in _cells(threats):
        found = attack(
            trained,
            data,
            threat=Threat.of(norm, eps),
            targets=targets,
            tolerance=threats.tolerance,
            steps=threats.steps,
        )
        robust, last = int(found.robust.sum()), found.outputs
        after = scores(found.outputs, truth, data)
        rows.append(
            common
            | {
                "targets": targets,
                "norm": norm,
                "eps": eps,
                "robust_correct": robust,
                "robust_accuracy": robust / len(data),
                **dict(zip(("ci_low", "ci_high"), wilson(robust, len(data)), strict=True)),
                **{f"attacked_{name}": value for name, value in asdict(after).items()},
                "attacked_outside": int(outside(trained, found.outputs).sum()),
                # A perfect model would move so far, too: the system is what it is.
                "system_response": true_response(trained, data, found.inputs).mean().item(),
            }
        )
    return rows, _points(trained, data, clean, last)


def _cells(threats: Threats) -> Iterable[tuple[str, float, str]]:
    return ((norm, eps, targets) for targets in threats.targets for norm in threats.norms for eps in threats.eps)


def _points(trained: Trained, data: Trajectories, clean: torch.Tensor, attacked: torch.Tensor) -> pd.DataFrame:
    """In the system's units."""
    names, count = SYSTEMS[data.system].states, trained.model.states
    rows = []
    for trajectory in range(min(SHOWN, len(data))):
        views = {
            "prediction": trained.states.original(clean[trajectory].double().numpy().reshape(-1, count)),
            "attacked": trained.states.original(attacked[trajectory].double().numpy().reshape(-1, count)),
        }
        for place, time in enumerate(data.times[1:]):
            for state, name in enumerate(names):
                rows.append(
                    {
                        "model": trained.recipe.name,
                        "system": data.system,
                        "trajectory": trajectory,
                        "time": time,
                        "state": name,
                        "truth": data.states[trajectory, place + 1, state],
                        **{view: values[place, state] for view, values in views.items()},
                    }
                )
    return pd.DataFrame(rows)


def explained(trained: Trained, data: Trajectories) -> pd.DataFrame:
    """A row for each trajectory, time and state: its prediction, scaled, and what each input contributes to it.

    ``missing`` is what contributions leave of the prediction.
    """
    system = SYSTEMS[data.system]
    found = contributions(trained, trained.inputs(data))
    names = [*system.states, *system.parameters, "drive"]
    rows = []
    for trajectory in range(len(found.outputs)):
        for place, time in enumerate(data.times[1:]):
            for state, name in enumerate(system.states):
                rows.append(
                    {
                        "model": trained.recipe.name,
                        "system": data.system,
                        "trajectory": trajectory,
                        "time": time,
                        "state": name,
                        "prediction": found.outputs[trajectory, place, state].item(),
                        **dict(zip(names, found.shares[trajectory, place, state].tolist(), strict=True)),
                        "missing": found.missing[trajectory, place, state].item(),
                    }
                )
    return pd.DataFrame(rows)


MEASURES = ("relative_error", "r2", "valid_time", "robust_accuracy", "attacked_relative_error")

KEYS = ["system", "targets", "norm", "eps"]


def summary_of(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each variation, system and threat; ``p_MEASURE`` is Welch's test against the conventional variation.

    That is the one of the same kind, where there is exactly one; p is missing where it does not exist, or there is one
    training.
    """
    rows = []
    for (*key, variation), group in results.groupby([*KEYS, "variation"], sort=False):
        same = results
        for name, value in zip(KEYS, key, strict=True):
            same = same[same[name] == value]
        other = same[(same["kind"] == group["kind"].iloc[0]) & (same["family"] == "conventional")]
        if other["variation"].nunique() != 1 or variation in set(other["variation"]):
            other = other.iloc[:0]
        row: dict[str, object] = dict(zip([*KEYS, "variation"], [*key, variation], strict=True))
        row["trainings"] = len(group)
        for measure in MEASURES:
            found = summarise(group[measure].tolist())
            row |= {measure: found.mean, f"{measure}_deviation": found.deviation}
            several = len(group) > 1 and len(other) > 1
            row[f"p_{measure}"] = welch(group[measure].tolist(), other[measure].tolist()) if several else np.nan
        rows.append(row)
    return pd.DataFrame(rows)
