"""``localise`` as a user calls it."""

from pathlib import Path

import pandas as pd
import pytest

from tests.cli.command_line import refusal, succeed

TINY = ("--steps", 2, "--grids", 6, "--device", "cpu")


@pytest.fixture
def zoo(tiny_zoo: Path) -> tuple[object, ...]:
    return ("--zoo", tiny_zoo, "--model", "tiny-natural,tiny-bcos", *TINY)


def test_every_model_is_scored_clean_attacked_and_under_noise_on_the_same_grids(
    zoo: tuple[object, ...], tmp_path: Path
) -> None:
    out = succeed("localise", *zoo, "--out", "run")
    assert "Localisation in %: share, 6 pictures of game grid from digits" in out
    rows = pd.read_csv(tmp_path / "run/localisation.csv")
    assert list(rows["condition"]) == ["clean", "attack", "noise"] * 2
    assert set(rows["pictures"]) == {6}
    assert set(rows["floor"]) == {0.25}
    cells = pd.read_csv(tmp_path / "run/cells.csv")
    assert len(cells) == 2 * 3 * 6 * 4
    images = cells.groupby("model")["image"].apply(list)
    assert images["tiny-natural"] == images["tiny-bcos"]
    clean, attacked = (cells[cells["condition"] == name] for name in ("clean", "attack"))
    assert clean["kept"].all()
    assert not attacked["kept"].all()
    assert (attacked["size"] > 0).all()
    assert (tmp_path / "run/figures/localisation_share.png").is_file()
    assert len(attacked) == rows.loc[rows["condition"] == "attack", ["kept", "lost"]].to_numpy().sum()


def test_what_was_interrupted_goes_on_and_ends_with_the_same_bytes(
    zoo: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("localise", *zoo, "--batch-size", 2, "--no-figures", "--quiet", "--out")
    succeed(*command, "whole")
    from robustbench_bcos.localisation import playing

    asked, calls = playing.explain, iter(range(7))

    def stopped(*arguments: object, **options: object) -> object:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return asked(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(playing, "explain", stopped)
        from tests.cli.command_line import call

        assert call(*command, "halted").code == 130
    lines = [line.split() for line in succeed("localise", "--status", "halted").splitlines()]
    assert ["│", "tiny-natural", "│", "4", "│", "2", "│"] in lines
    assert ["│", "tiny-bcos", "│", "0", "│", "6", "│"] in lines
    succeed(*command, "halted")
    assert "Complete: its results are in halted/localisation.csv." in succeed("localise", "--status", "halted")
    for name in ("localisation.csv", "cells.csv"):
        assert (tmp_path / "halted" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_too_few_images_are_refused_with_their_number_for_each_model(zoo: tuple[object, ...]) -> None:
    said = refusal("localise", *zoo, "--limit", 3)
    assert "no grid of 4 distinct classes can be made" in said
    assert "tiny-natural 3" in said or "tiny-natural 2" in said


def test_verbs_that_read_runs_say_what_a_folder_of_scores_is(zoo: tuple[object, ...]) -> None:
    succeed("localise", *zoo, "--condition", "clean", "--no-figures", "--quiet", "--out", "run")
    for verb in ("report", "compare"):
        assert "holds scores of `localise`" in refusal(verb, "run")
    assert "holds scores of `localise`" in refusal("run", "--status", "run")
    assert refusal("localise", "--cancel", "run") == "nothing of run is submitted: there is nothing to cancel"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cells", 5), "cells 5 must be 4 or 9"),
        (("--smooth", 2), "smooth 2 must be odd"),
        (("--protocol", "bcos-v3"), "did you mean 'bcos_v2'"),
        (("--method", "gradcam++"), "did you mean 'gradcam'"),
        (("--eps", 1000), "larger than the whole pixel range"),
        (("--protocol", "windowed", "--budget", "grid"), "leave out budget"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    zoo: tuple[object, ...], here: Path, arguments: tuple[object, ...], words: str
) -> None:
    assert words in refusal("localise", *zoo, *arguments)
    assert list(here.iterdir()) == []
