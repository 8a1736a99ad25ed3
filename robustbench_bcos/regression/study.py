"""Many forecasters: trained from a suite, each attacked in the same way, and what came of it as tables."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch

from robustbench_bcos.attacks.searches.pgd import PGD, RELATIVE_STEP
from robustbench_bcos.bench.evidence.trust import least_trusted
from robustbench_bcos.bench.provenance import command, commit, versions
from robustbench_bcos.bench.run_files import PROVENANCE
from robustbench_bcos.core.disk import made, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.statistics import holm, summarise, welch, wilson
from robustbench_bcos.core.trainings import REPEATED
from robustbench_bcos.core.version import VERSION
from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.regression.attack import Attacked, ErrorAbove, attack, outside, scores, true_response
from robustbench_bcos.regression.cards import ForecasterCard
from robustbench_bcos.regression.data import Trajectories, make_trajectories, write_trajectories
from robustbench_bcos.regression.evidence import Evidence, gather
from robustbench_bcos.regression.explain import contributions
from robustbench_bcos.regression.files import read_forecaster, write_forecaster
from robustbench_bcos.regression.recipe import Recipe, Suite, Threats
from robustbench_bcos.regression.training import Trained, train

T = TypeVar("T")
R = TypeVar("R")

KEPT = "forecasters_done"
"""Folder in which the results of each forecaster are kept."""

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
    """Every variation and system: with each seed, and then, where there are folds, without each fold."""
    recipes = suite.recipes()
    folds = [
        Training(
            recipe.model_copy(update={"name": f"{recipe.name.rpartition('-seed')[0]}-fold{fold}"}), (fold, suite.folds)
        )
        for recipe in recipes
        if suite.folds is not None and recipe.seed == suite.seeds[0]
        for fold in range(suite.folds)
    ]
    return [*map(Training, recipes), *folds]


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
    yield from _each(partial(_make, folder=folder), waiting, jobs)


def _each(function: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    """What a function gives for each, in their order; so many at a time, each in a process of one thread."""
    if jobs == 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(function, items)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Tables:
    """What a run of forecasters gives."""

    results: pd.DataFrame
    """A row for each model, and threat, and target of the attack."""
    trajectories: pd.DataFrame
    """True, predicted and attacked states of the first test trajectory, by model, time and state."""
    contributions: pd.DataFrame
    """Of the same trajectory: what each input and the drive contribute to each state."""
    summary: pd.DataFrame
    """Mean and deviation over trainings, and Welch's test of B-cos against conventional."""


def run_forecasters(
    cards: Sequence[Path],
    threats: Threats,
    *,
    out: Path,
    data: Trajectories | None = None,
    jobs: int = 1,
    when_done: Callable[[str], object] | None = None,
) -> Tables:
    """Attack and explain forecasters, and write the tables as CSV.

    What came of each is kept in the folder as soon as it is done, so that a run that was interrupted goes on.

    Args:
        cards: of each, beside its weights.
        threats: how they are attacked.
        out: where to.
        data: to be predicted; by default each model's own test trajectories.
        jobs: so many at a time, each in a process of its own with one thread.
        when_done: called with the name of each, in their order.

    Raises:
        RequestError: a card or weights that cannot be read, an unknown norm, or data of another system.
    """
    made(out / KEPT)
    each = []
    for card, one in zip(cards, _each(partial(_run, threats=threats, data=data, out=out), cards, jobs), strict=True):
        if when_done is not None:
            when_done(card.stem)
        each.append(one)
    results = pd.concat([one.results for one in each], ignore_index=True)
    trajectories, shares = (pd.concat([getattr(one, name) for one in each]) for name in ("trajectories", "shares"))
    tables = Tables(results=results, trajectories=trajectories, contributions=shares, summary=summary_of(results))
    made(out)
    for name, table in vars(tables).items():
        write_text(out / f"{name}.csv", table.to_csv(index=False))
    write_text(out / PROVENANCE, json.dumps(_provenance(threats), indent=2) + "\n")
    return tables


class _Run(NamedTuple):
    """Of one forecaster."""

    results: pd.DataFrame
    trajectories: pd.DataFrame
    shares: pd.DataFrame


def _run(file: Path, threats: Threats, data: Trajectories | None, out: Path) -> _Run:
    trained, card = read_forecaster(file)
    test = split(card.recipe, card.fold)[1] if data is None else data
    _check_fit(card, test)
    of: dict[str, object] = {
        "version": VERSION,
        "card": card.digest,
        "threats": threats.model_dump(mode="json"),
        "data": test.digest,
    }
    kept = out / KEPT / f"{file.stem}.json"
    if (found := _kept(kept, of)) is None:
        results, path = _attacked(trained, card, test, threats)
        shares = explained(trained, test.select(range(min(SHOWN, len(test)))))
        tables = {"results": results, "trajectories": path, "shares": shares}
        write_text(kept, json.dumps({"of": of, **{name: one.to_dict("split") for name, one in tables.items()}}))
        # Read again, so that an interrupted study and a whole one have the same values.
        found = _kept(kept, of)
        assert found is not None
    return found


def _kept(file: Path, of: dict[str, object]) -> _Run | None:
    """What came of a forecaster under the same threats, if it is there and whole."""
    try:
        read = json.loads(file.read_bytes())
        return _Run(*(pd.DataFrame(**read[name]) for name in _Run._fields)) if read["of"] == of else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _check_fit(card: ForecasterCard, data: Trajectories) -> None:
    if data.system != card.recipe.system or not np.array_equal(data.times, card.times):
        raise RequestError(
            f"{card.recipe.name} predicts {card.recipe.system} at {len(card.times)} times from {card.times[0]:g} to "
            f"{card.times[-1]:g}, and the data are of {data.system} at {len(data.times)} times from "
            f"{data.times[0]:g} to {data.times[-1]:g}: give its own"
        )


def _attacked(
    trained: Trained, card: ForecasterCard, data: Trajectories, threats: Threats
) -> tuple[pd.DataFrame, pd.DataFrame]:
    truth, inputs = trained.truth(data), trained.inputs(data)
    with torch.no_grad():
        clean = trained.model(inputs)
    common = _described(trained, card, data) | {
        "tolerance": threats.tolerance,
        **asdict(scores(clean, truth, data)),
        "outside": int(outside(trained, clean).sum()),
        "inputs_outside": int(((inputs < 0) | (inputs > 1)).any(dim=1).sum()),
    }
    rows: list[dict[str, object]] = []
    last = clean
    cells = [(eps, targets) for targets in threats.targets for eps in threats.eps]
    for norm in threats.norms:
        within: dict[str, Any] = {"norm": norm, "cells": cells, "tolerance": threats.tolerance, "steps": threats.steps}
        attacked = attack(trained, data, **within)
        unchecked = [Evidence(robust=found.robust, trust="unchecked", reasons="") for found in attacked]
        evidence = unchecked if threats.evidence == "off" else gather(trained, data, attacked, **within)
        for (eps, targets), found, gathered in zip(cells, attacked, evidence, strict=True):
            last = found.outputs
            # The columns that a run of classifiers has, too, so that gate and comparison read both.
            shared = {
                "attack": PGD.name,
                "norm": norm,
                "eps": f"{eps:g}",
                "epsilon": eps,
                "steps": threats.steps,
                "step_size": RELATIVE_STEP * eps / threats.steps,
                "loss": ErrorAbove.loss,
                "restarts": 1,
                "start": "image",
                "select": "first_success",
                "space": targets,
                "criterion": ErrorAbove.name,
                "options": f"tolerance={threats.tolerance:g}",
                **_counts(found, gathered),
                "evidence": threats.evidence,
            }
            after = scores(found.outputs, truth, data)
            rows.append(
                common
                | shared
                | {f"attacked_{name}": value for name, value in asdict(after).items()}
                | {
                    "attacked_outside": int(outside(trained, found.outputs).sum()),
                    # A perfect model would move so far, too: the system is what it is.
                    "system_response": true_response(trained, data, found.inputs).mean().item(),
                }
            )
    return pd.DataFrame(rows), _points(trained, data, clean, last)


def _described(trained: Trained, card: ForecasterCard, data: Trajectories) -> dict[str, object]:
    """What a row says of its model and of the data."""
    recipe = card.recipe
    variation = REPEATED.sub("", recipe.name).removeprefix(f"{recipe.system}-")
    own = recipe.model_dump(exclude={"name", "system", "seed", "steps", "kind"})
    return {
        "model": recipe.name,
        "variation": variation,
        "dataset": recipe.system,
        "subset": data.digest[:12],
        "images": len(data),
        "architecture": recipe.kind,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "weights_sha256": card.sha256,
        "version": VERSION,
        "training": f"{recipe.iterations} iterations",
        "training_seed": recipe.seed,
        "fold": "" if card.fold is None else f"{card.fold[0]} of {card.fold[1]}",
        "solver_steps": recipe.steps,
        "seed": 0,
        **own,
        "b": recipe.b if recipe.family == "bcos" else None,
        "encoding": "add_inverse" if trained.model.encoded else "none",
    }


def _counts(found: Attacked, evidence: Evidence) -> dict[str, object]:
    """Trajectories that are right, and which of them stay so under the attack, and under everything."""
    total, right, robust = len(found.robust), int(found.eligible.sum()), int(found.robust.sum())
    worst = int(evidence.robust.sum())
    low, high = wilson(robust, total)
    return {
        "clean_correct": right,
        "clean_accuracy": right / total,
        "robust_correct": robust,
        "robust_accuracy": robust / total,
        "ci_low": low,
        "ci_high": high,
        "worst_correct": worst,
        "robust_accuracy_worst": worst / total,
        "trust": evidence.trust,
        "reasons": evidence.reasons,
        "survivors": "".join(str(int(one)) for one in evidence.robust.tolist()),
    }


def _points(trained: Trained, data: Trajectories, clean: torch.Tensor, attacked: torch.Tensor) -> pd.DataFrame:
    """In the system's units."""
    prediction, broken = (
        trained.states.original(outputs.double().numpy().reshape(len(data), -1, trained.model.states))
        for outputs in (clean, attacked)
    )
    return pd.DataFrame(
        key
        | {
            "truth": data.states[trajectory, time + 1, state],
            "prediction": prediction[trajectory, time, state],
            "attacked": broken[trajectory, time, state],
        }
        for key, (trajectory, time, state) in _places(trained, data, min(SHOWN, len(data)))
    )


def explained(trained: Trained, data: Trajectories) -> pd.DataFrame:
    """A row for each trajectory, time and state: its prediction, scaled, and what each input contributes to it.

    ``missing`` is what contributions leave of the prediction.
    """
    system = SYSTEMS[data.system]
    found = contributions(trained, trained.inputs(data))
    names = [*system.states, *system.parameters, "drive"]
    return pd.DataFrame(
        key
        | {
            "prediction": found.outputs[place].item(),
            **dict(zip(names, found.shares[place].tolist(), strict=True)),
            "missing": found.missing[place].item(),
        }
        for key, place in _places(trained, data, len(found.outputs))
    )


def _places(
    trained: Trained, data: Trajectories, count: int
) -> Iterator[tuple[dict[str, object], tuple[int, int, int]]]:
    """Each predicted value of the first trajectories: the columns that name it, and its indices."""
    for trajectory in range(count):
        for place, time in enumerate(data.times[1:]):
            for state, name in enumerate(SYSTEMS[data.system].states):
                key = {
                    "model": trained.recipe.name,
                    "system": data.system,
                    "trajectory": trajectory,
                    "time": time,
                    "state": name,
                }
                yield key, (trajectory, place, state)


UNATTACKED = ("mse", "relative_error", "r2", "valid_time", "clean_accuracy")
"""Measures that are the same under every threat."""

ATTACKED = ("robust_accuracy", "robust_accuracy_worst", "attacked_relative_error")

KEYS = ["dataset", "space", "norm", "eps", "repeated"]


def summary_of(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each system, threat and variation, over seeds and over folds apart.

    ``p_MEASURE`` is Welch's test against the conventional variation of the same kind, where there is exactly one,
    corrected by Holm over all tests of the measure, of which measures without an attack have one for all threats; p is
    missing where there is one training.
    """
    folded = results["fold"] != ""
    everything = results.assign(repeated=np.where(folded, "folds", "seeds"))
    rows = []
    for key, group in everything.groupby([*KEYS, "variation"], sort=False):
        same = (everything[KEYS] == list(key[:-1])).all(axis=1)
        conventional = everything["family"] == "conventional"
        other = everything[same & conventional & (everything["architecture"] == group["architecture"].iloc[0])]
        if other["variation"].nunique() != 1 or key[-1] in set(other["variation"]):
            other = other.iloc[:0]
        row: dict[str, object] = dict(zip([*KEYS, "variation"], key, strict=True))
        row |= {"trainings": len(group), "trust": least_trusted(group["trust"])}
        for measure in (*UNATTACKED, *ATTACKED):
            found = summarise(group[measure].tolist())
            row |= {measure: found.mean, f"{measure}_deviation": found.deviation}
            several = len(group) > 1 and len(other) > 1
            row[f"p_{measure}"] = welch(group[measure].tolist(), other[measure].tolist()) if several else np.nan
        rows.append(row)
    summary = pd.DataFrame(rows)
    for measure in (*UNATTACKED, *ATTACKED):
        column = f"p_{measure}"
        tests = [*(KEYS if measure in ATTACKED else ("dataset", "repeated")), "variation"]
        once = summary[summary[column].notna()].drop_duplicates(tests)
        corrected = once[tests].assign(**{column: pd.Series(holm(once[column].tolist()), once.index, dtype=float)})
        summary[column] = summary[tests].merge(corrected, how="left")[column].to_numpy()
    return summary


def _provenance(threats: Threats) -> dict[str, object]:
    """How tables came about."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "commit": commit(),
        "versions": {**versions(), "scipy": version("scipy")},
        "threats": threats.model_dump(mode="json"),
    }
