"""``train``: once, with several seeds, without one of several folds, and all that a suite says, some at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from robustbench_bcos.cli.train import parse_seeds
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.training import workshop
from robustbench_bcos.training.recipes import RECIPES
from robustbench_bcos.training.workshop import without_fold
from tests.cli.command_line import call, refusal, succeed

SEEDS = ("digits-natural-seed0", "digits-natural-seed1")
FOLDS = ("digits-natural-fold0", "digits-natural-fold1")
SHORT = ("train", "digits-natural", "--epochs", 1)


class Trained(NamedTuple):
    """A folder of models, what was said of them, and the images each was trained with."""

    folder: Path
    out: str
    images: dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained") / "models"
    images: dict[str, tuple[int, ...]] = {}
    really_train = workshop.train

    def spying(recipe: Any, chosen: EvalSubset, **options: Any) -> Any:
        images[recipe.name] = chosen.indices
        return really_train(recipe, chosen, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workshop, "train", spying)
        out = succeed(*SHORT, "--seeds", "0..1", "--out", folder) + succeed(*SHORT, "--folds", 2, "--out", folder)
    return Trained(folder, out, images)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# Models and their names


def test_a_model_for_each_seed_and_fold_is_named_after_it(trained: Trained) -> None:
    names = {*SEEDS, *FOLDS}
    suffixes = (".safetensors", ".toml", ".log.csv", ".lock")
    assert {file.name for file in trained.folder.iterdir()} == {name + suffix for name in names for suffix in suffixes}
    for name in names:
        assert f"{name}: " in trained.out
        assert Zoo([trained.folder])[name].card.name == name


def test_seeds_and_folds_give_other_weights(trained: Trained) -> None:
    models = [weights(trained.folder, name) for name in (*SEEDS, *FOLDS)]
    assert not any(equal(models[i], models[j]) for i in range(4) for j in range(i))


def test_a_seed_among_several_is_the_seed_alone(trained: Trained) -> None:
    succeed(*SHORT, "--seed", 1, "--out", "alone")
    assert equal(weights(Path("alone"), "digits-natural"), weights(trained.folder, "digits-natural-seed1"))


def test_every_seed_sees_all_images_and_every_fold_leaves_out_its_own(trained: Trained) -> None:
    everything = EvalSubset.of(Digits("train")).indices
    assert all(trained.images[name] == everything for name in SEEDS)
    left_out = [set(everything) - set(trained.images[name]) for name in FOLDS]
    assert left_out[0] & left_out[1] == set()
    assert left_out[0] | left_out[1] == set(everything)
    assert all(left_out)


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_are_disjoint_balanced_parts_of_everything(folds: int) -> None:
    images = EvalSubset.of(Digits("train"))
    kept = [without_fold(images, fold, folds).indices for fold in range(folds)]
    left_out = [[index for index in images.indices if index not in set(part)] for part in kept]
    assert sorted(index for part in left_out for index in part) == sorted(images.indices)
    for part in kept:
        assert [index for index in images.indices if index in set(part)] == list(part)
    for label in range(10):
        sizes = [sum(images.dataset.labels[index] == label for index in part) for part in left_out]
        assert max(sizes) - min(sizes) <= 1


def test_a_run_takes_the_models_and_compare_their_trainings(trained: Trained) -> None:
    options = ["--model", "digits-natural-*", "--limit", 10, "--steps", 1, "--no-figures", "--quiet", "--out", "mine"]
    assert succeed("run", "--zoo", trained.folder, *options) == "mine/results.csv\n"
    found = succeed("compare", "mine", "--across-seeds", "--format", "csv").splitlines()
    assert len(found) == 3
    assert found[1].startswith("clean_accuracy,no attack,digits-natural,4,")
    assert found[2].startswith("robust_accuracy_worst,pgd l2 0.5 1 step,digits-natural,4,")


# The same command again


@pytest.mark.parametrize("again", [["--seeds", "0..1"], ["--seeds", "1"], ["--folds", "2"]])
def test_models_that_are_done_are_not_trained_again(again: list[str], trained: Trained) -> None:
    before = contents(trained.folder)
    outcome = call(*SHORT, *again, "--out", trained.folder)
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.count("trained already") == len(outcome.out.splitlines())
    assert contents(trained.folder) == before


def test_models_that_are_missing_are_trained_beside_those_that_are_done(here: Path) -> None:
    succeed(*SHORT, "--seeds", "0", "--out", "mine")
    first = contents(here / "mine")
    out = succeed(*SHORT, "--seeds", "0,5", "--out", "mine")
    assert "digits-natural-seed0: trained already" in out
    assert "digits-natural-seed5: " in out
    assert {name: content for name, content in contents(here / "mine").items() if "seed0" in name} == first
    assert (here / "mine" / "digits-natural-seed5.toml").is_file()


def test_an_interruption_says_how_to_continue(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_train, names = workshop.train, []

    def interrupted(recipe: Any, images: EvalSubset, **options: Any) -> Any:
        names.append(recipe.name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return really_train(recipe, images, **options)

    monkeypatch.setattr(workshop, "train", interrupted)
    outcome = call(*SHORT, "--folds", 2, "--out", "mine")
    assert outcome.code == 130
    assert "repeat the same command to continue" in outcome.err
    assert succeed(*SHORT, "--folds", 2, "--out", "mine").startswith("digits-natural-fold0: trained already")
    assert names == ["digits-natural-fold0", "digits-natural-fold1", "digits-natural-fold1"]
    assert {file.suffix for file in (here / "mine").iterdir()} == {".toml", ".safetensors", ".csv", ".lock"}


def test_without_a_recipe_the_recipes_are_listed() -> None:
    assert succeed("train").split() == RECIPES.names()


def test_a_model_of_another_budget_is_not_taken_for_the_one_asked_for(trained: Trained) -> None:
    said = refusal("train", "digits-natural", "--epochs", 2, "--seeds", "0..1", "--out", trained.folder)
    assert said == (
        f"{trained.folder / SEEDS[0]}.toml was made by another recipe, or in other than 2 epochs: remove it to train "
        "it again, or choose another folder"
    )


def test_a_model_of_another_recipe_of_that_name_is_not_either(trained: Trained, here: Path) -> None:
    text = Path(str(RECIPES._files() / "digits-natural.toml")).read_text(encoding="utf-8")
    (here / "mine.toml").write_text(text.replace('norm = "batch"', 'norm = "layer"'), encoding="utf-8")
    said = refusal("train", "mine.toml", "--epochs", 1, "--seeds", "0..1", "--out", trained.folder)
    assert said.startswith(f"{trained.folder / SEEDS[0]}.toml was made by another recipe, or in other than 1 epochs")


# Several at a time, and suites

SUITE = """
description = "tiny"
norm = ["l2"]
eps = ["0.5"]
steps = [1]
[trainings]
recipe = "digits-natural"
seeds = [0, 1]
all = { epochs = 1 }
[trainings.variations]
"plain" = {}
"layered" = { arguments.norm = "layer" }
"""
MODELS = ("plain-seed0", "layered-seed0", "plain-seed1", "layered-seed1")


@pytest.fixture
def suite(here: Path) -> str:
    (here / "mine.toml").write_text(SUITE, encoding="utf-8")
    return "mine.toml"


def spied(patch: pytest.MonkeyPatch, failing: Sequence[str] = ()) -> list[str]:
    """Names of what is trained in this process; a training of ``failing`` fails."""
    really_train, names = workshop.train, []

    def spying(recipe: Any, images: EvalSubset, **options: Any) -> Any:
        names.append(recipe.name)
        if recipe.name in failing:
            raise ZeroDivisionError("by nothing")
        return really_train(recipe, images, **options)

    patch.setattr(workshop, "train", spying)
    return names


def test_a_suite_is_trained_attacked_and_compared_by_its_name_alone(
    suite: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = spied(monkeypatch)
    out = succeed("train", "--suite", suite, "--out", "zoo")
    assert names == list(MODELS)
    assert [line.split(":")[0] for line in out.splitlines()] == names
    assert out.splitlines()[-1].endswith("(4 of 4, in zoo)")
    assert "plain-seed0: trained already" in succeed("train", "--suite", suite, "--out", "zoo")
    assert len(names) == 4
    options = ["--limit", 10, "--evidence", "off", "--no-figures", "--quiet", "--out", "run"]
    assert succeed("run", "--suite", suite, "--zoo", "zoo", *options) == "run/results.csv\n"
    found = succeed("compare", "run", "--across-seeds", "--format", "csv").splitlines()
    assert [line.split(",")[2:4] for line in found[1:]] == [["plain", "2"], ["layered", "2"]] * 2


def test_models_of_a_suite_are_chosen_by_globs_and_what_is_missing_is_not_attacked(suite: str, here: Path) -> None:
    out = succeed("train", "--suite", suite, "--model", "plain-*", "--out", "zoo", "--epochs", 2)
    assert [line.split(":")[0] for line in out.splitlines()] == ["plain-seed0", "plain-seed1"]
    assert len((here / "zoo/plain-seed0.log.csv").read_text(encoding="utf-8").splitlines()) == 3
    said = refusal("run", "--suite", suite, "--zoo", "zoo")
    assert said == (
        "2 of the 4 models of suite mine.toml are not there (layered-seed0, ...): `train --suite mine.toml --out DIR` "
        "makes them, and --zoo DIR finds them; or name others with --model"
    )
    some = ["--model", "plain-*", "--limit", 10, "--evidence", "off", "--no-figures", "--quiet", "--out", "run"]
    assert succeed("run", "--suite", suite, "--zoo", "zoo", *some) == "run/results.csv\n"


def test_jobs_change_nothing_but_the_time(suite: str, here: Path) -> None:
    some = ["--suite", suite, "--model", "*-seed0"]
    out = succeed("train", *some, "--jobs", 2, "--out", "together")
    assert sorted(line.split(":")[0] for line in out.splitlines()) == ["layered-seed0", "plain-seed0"]
    succeed("train", *some, "--out", "alone")
    for name in ("plain-seed0", "layered-seed0"):
        for file in (f"{name}.toml", f"{name}.safetensors"):
            assert (here / "together" / file).read_bytes() == (here / "alone" / file).read_bytes()
    # By jobs, too, what is there is not trained again.
    out = succeed("train", *some, "--executor", "debug", "--out", "together")
    assert [line.partition("; ")[0] for line in out.splitlines()] == [
        f"{name}: trained already" for name in ("plain-seed0", "layered-seed0")
    ]


def test_one_training_that_fails_is_reported_and_the_others_are_made(
    suite: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        names = spied(patch, failing=["layered-seed0"])
        outcome = call("train", "--suite", suite, "--out", "zoo")
    assert names == list(MODELS)
    assert outcome.code == 1
    assert "layered-seed0 failed: ZeroDivisionError: by nothing" in outcome.err
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1] == "1 of 4 trainings failed: layered-seed0"
    again = spied(monkeypatch)
    assert "plain-seed0: trained already" in succeed("train", "--suite", suite, "--out", "zoo")
    assert again == ["layered-seed0"]


def test_an_interrupted_suite_says_how_far_it_came(suite: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_train = workshop.train

    def interrupted(recipe: Any, images: EvalSubset, **options: Any) -> Any:
        if recipe.name == MODELS[1]:
            raise KeyboardInterrupt
        return really_train(recipe, images, **options)

    monkeypatch.setattr(workshop, "train", interrupted)
    outcome = call("train", "--suite", suite, "--out", "zoo")
    assert outcome.code == 130
    assert "interrupted after 1 of 4 trainings; repeat the same command to continue in zoo" in outcome.err


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_every_process_and_says_how_to_continue(suite: str, here: Path) -> None:
    options = ["train", "--suite", suite, "--model", "*-seed0", "--jobs", "2", "--out", "zoo", "--epochs"]
    command = [sys.executable, "-m", "robustbench_bcos", *options, "1000"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as work:
        checkpoints = [here / f"zoo/{name}-seed0.ckpt" for name in ("plain", "layered")]
        give_up = time.monotonic() + 120
        while not all(file.exists() for file in checkpoints):
            if time.monotonic() > give_up:
                # Or else it would be waited for to its last epoch.
                os.killpg(work.pid, signal.SIGKILL)
                pytest.fail("no checkpoint of both")
            time.sleep(0.05)
        # As Ctrl-C does, to every process of the group.
        os.killpg(work.pid, signal.SIGINT)
        _, told = work.communicate(timeout=60)
    assert work.returncode == 130
    assert told == "interrupted after 0 of 2 trainings; repeat the same command to continue in zoo\n"
    while not group_is_gone(work.pid):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    epochs = [len(file.with_suffix(".log.csv").read_text(encoding="utf-8").splitlines()) for file in checkpoints]
    assert min(epochs) > 1
    status = [line.replace("│", "").split() for line in succeed("train", "--status", "zoo").splitlines()]
    for name, lines in zip(("plain", "layered"), epochs, strict=True):
        assert [f"{name}-seed0", f"{lines - 1}", f"{1001 - lines}"] in status
    refused = call(*options, "1001")
    assert refused.code == 1
    assert refused.err.count("belongs to another recipe or to other images") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["digits-natural", "--suite", "mine.toml"], "recipe digits-natural and --suite mine.toml each say what to "),
        (["--suite", "mine.toml", "--seeds", "0..1"], "--suite says itself how often to train: leave --seed, "),
        (["--suite", "mine.toml", "--seed", "1"], "--suite says itself how often to train: leave --seed, "),
        (["digits-natural", "--model", "a"], "--model chooses among the models of a --suite: give one, or leave it "),
        (["--suite", "smoke"], "suite smoke trains nothing: choose one that `suites` lists with models, or name a "),
        (["--suite", "digits-ablation"], "unknown suite 'digits-ablation': did you mean 'digits-ablations'?"),
        (["--suite", "mine.toml", "--model", "plan-seed0"], "unknown model of the suite 'plan-seed0': did you mean "),
        (["--suite", "mine.toml", "--dataset", "nothing"], "unknown dataset 'nothing'"),
        (
            ["cifar10jpeg-natural-resnet20"],
            "recipe cifar10jpeg-natural-resnet20 is for the images of cifar10jpeg, and no dataset is opened by that ",
        ),
        (
            ["--suite", "cifar10jpeg-large", "--model", "cifar10jpeg-natural-resnet56-*"],
            "recipe cifar10jpeg-natural-resnet56-seed0 is for the images of cifar10jpeg, and no dataset is opened ",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_written(
    options: list[str], said: str, suite: str, here: Path
) -> None:
    assert refusal("train", *options, "--out", "zoo").startswith(said)
    assert [file.name for file in here.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ('norm = "leyer"', "unknown norm layer 'leyer': did you mean 'layer'?"),
        ("b = 2.0", "architecture 'resnet8' takes no argument 'b': it takes norm, norm_affine"),
    ],
)
def test_a_variation_that_cannot_be_built_is_refused_before_any_is_trained(
    argument: str, said: str, here: Path
) -> None:
    (here / "mine.toml").write_text(SUITE.replace('norm = "layer"', argument), encoding="utf-8")
    assert refusal("train", "--suite", "mine.toml", "--out", "zoo").startswith(said)
    assert not (here / "zoo").exists()


# Seeds as they are written


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0..4", (0, 1, 2, 3, 4)),
        ("3..4", (3, 4)),
        ("2..2", (2,)),
        ("7", (7,)),
        ("0,3,7", (0, 3, 7)),
        ("7,0", (7, 0)),
        (" 1 , 2 ", (1, 2)),
        (" 8..10 ", (8, 9, 10)),
    ],
)
def test_seeds_are_a_span_with_both_ends_or_a_list(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", ",", "a", "4..0", "0..", "..4", "0...4", "0..4..5", "1,", "1,,2", "0,0", "0,00", "-1", "0.5", "0..1,3"]
)
def test_seeds_that_are_none_are_refused_and_nothing_is_written(text: str, here: Path) -> None:
    with pytest.raises(RequestError):
        parse_seeds(text)
    said = refusal(*SHORT, f"--seeds={text}", "--out", "mine")
    assert said.startswith(f"--seeds {text} must be like 0..4 or 0,3,7")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [["--seed", 1, "--seeds", "0..1"], ["--seed", 0, "--folds", 2], ["--seeds", "0", "--folds", 2]],
)
def test_seeds_and_folds_are_not_mixed(options: list[object], here: Path) -> None:
    assert refusal(*SHORT, *options, "--out", "mine") == (
        "--seed, --seeds and --folds each say how often to train: give one of them"
    )
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("folds", ["1", "0", "-2", "two", "2.5"])
def test_folds_that_are_none_are_helped_by_the_parser(folds: str, here: Path) -> None:
    outcome = call(*SHORT, f"--folds={folds}", "--out", "mine")
    assert outcome.code == 2
    assert "--folds" in outcome.err
    assert "Traceback" not in outcome.err
    assert list(here.iterdir()) == []


def test_more_folds_than_images_would_leave_out_nothing_and_are_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_reached(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(workshop, "train", not_reached)
    assert refusal(*SHORT, "--folds", 1000, "--out", "mine").startswith("--folds 1000 ")
    assert list(here.iterdir()) == []


def test_an_unknown_recipe_is_refused_before_anything_is_trained(here: Path) -> None:
    said = refusal("train", "digits-natrual", "--seeds", "0..1", "--out", "mine")
    assert said.startswith("unknown recipe 'digits-natrual': did you mean 'digits-natural'?")
    assert list(here.iterdir()) == []
