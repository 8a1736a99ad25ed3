"""``localise --game masks`` as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.cli.command_line import refusal, succeed
from tests.data.test_masks import blocks, with_palette, write

SMALL = ("--game", "masks", "--grids", 8, "--device", "cpu")


@pytest.fixture
def zoo(tiny_zoo: Path) -> tuple[object, ...]:
    return ("--zoo", tiny_zoo, "--model", "tiny-natural,tiny-bcos", *SMALL)


def test_pairs_are_scored_by_all_measures_beside_controls(zoo: tuple[object, ...], tmp_path: Path) -> None:
    told = succeed("localise", *zoo, "--dataset", "digit_pairs", "--threat", "l2:0.5", "--steps", 2, "--out", "run")
    assert "Localisation in %: energy, 8 pictures of game masks from digit_pairs" in told
    assert told.count("random map") == 2
    drawn = {file.name for file in (tmp_path / "run/figures").iterdir()}
    assert drawn >= {"maps_tiny-bcos.png", "maps_tiny-natural.png", "localisation_energy-ratio.png"}
    rows = pd.read_csv(tmp_path / "run/localisation.csv")
    assert set(rows["measure"]) == {"energy", "energy_ratio", "average_precision", "iou"}
    assert set(rows.loc[rows["control"], "method"]) == {"random map", "centre"}
    assert set(rows.loc[rows["control"], "condition"]) == {"clean"}
    # 8 pictures of two digits each, and one map for each digit.
    assert set(rows["pictures"]) == {8}
    assert set(rows["regions"]) == {16}
    wide = rows[~rows["control"]].pivot_table(index=["model", "condition"], columns="measure", values="mean")
    assert wide.notna().all(axis=None)
    cells = pd.read_csv(tmp_path / "run/cells.csv")
    energy, ratio = (cells[cells["measure"] == name].reset_index() for name in ("energy", "energy_ratio"))
    np.testing.assert_allclose(ratio["score"], energy["score"] / energy["floor"], rtol=1e-3)
    np.testing.assert_allclose(ratio["ceiling"], 1 / energy["floor"], rtol=1e-4)
    # A random map has its evidence wherever the area is.
    random = rows[(rows["method"] == "random map") & (rows["measure"] == "energy_ratio")].iloc[0]
    assert random["ci_low"] <= 1.1
    assert random["ci_high"] >= 0.9
    compared = pd.read_csv(tmp_path / "run/comparisons.csv")
    assert not compared["first"].str.contains("random map").any() or compared["between"].eq("methods").any()
    assert not (compared["between"].eq("models") & compared["first"].str.contains("random map|centre")).any()


def test_batches_of_any_size_score_the_same(zoo: tuple[object, ...], tmp_path: Path) -> None:
    command = ("localise", *zoo, "--condition", "clean", "--no-figures", "--quiet")
    for size in (3, 8):
        succeed(*command, "--batch-size", size, "--out", f"by{size}")
    one, other = (pd.read_csv(tmp_path / name / "cells.csv") for name in ("by3", "by8"))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4)


def test_a_mapping_says_which_output_is_which_class(zoo: tuple[object, ...], tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, {"one": with_palette(blocks()), "two": with_palette(blocks()[:, ::-1].copy())})
    names = {name: None for name in _voc_names()} | {"cat": [4, 7], "bicycle": 2}
    (tmp_path / "classes.json").write_text(json.dumps(names))
    command = ("localise", *zoo, "--dataset", "voc", "--data-dir", root, "--condition", "clean", "--no-figures")
    said = refusal(*command)
    assert "has 10 outputs, and the masks of voc have 20 classes: say with mask_classes which output" in said
    succeed(*command, "--mask-classes", "classes.json", "--out", "run")
    cells = pd.read_csv(tmp_path / "run/cells.csv")
    assert set(cells["label"]) <= {2, 4, 7}
    assert set(cells["target"]) == {0, 1}
    area = cells[(cells["measure"] == "energy") & (cells["target"] == 1)]["floor"]
    assert set(area) == {round(64 / (240 - 8), 6)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cat": 10}, "'cat' stands for 10, which is no output of model 'tiny-natural'"),
        ({"cat": "tabby"}, "'cat' stands for 'tabby'"),
        ({"kitten": 1}, "unknown class of masks 'kitten'"),
        ({}, "does not say which output is 'cat'"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(
    changed: dict[str, object], said: str, zoo: tuple[object, ...], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write(root, {"one": with_palette(blocks())})
    names: dict[str, object] = {name: None for name in _voc_names() if name != "cat"}
    (tmp_path / "classes.json").write_text(json.dumps(names | changed))
    command = ("localise", *zoo, "--dataset", "voc", "--data-dir", root, "--mask-classes", "classes.json")
    assert said in refusal(*command)


def test_what_has_no_masks_or_is_of_another_game_is_refused(zoo: tuple[object, ...], tmp_path: Path) -> None:
    for name in range(10):
        (tmp_path / f"images/{name}").mkdir(parents=True)
        Image.new("RGB", (8, 8), (20 * name, 0, 0)).save(tmp_path / f"images/{name}/one.png")
    said = refusal("localise", *zoo, "--dataset", "folder:images")
    assert "game masks needs a dataset with masks" in said
    assert said.rstrip().endswith("choose from digit_pairs, digits, voc")
    assert "cells is an option of game grid, and the game is masks" in refusal("localise", *zoo, "--cells", 9)
    (tmp_path / "classes.json").write_text('{"0": 0}')
    grid = ("localise", "--zoo", zoo[1], "--model", "tiny-natural", "--mask-classes", "classes.json")
    assert "mask_classes is an option of game masks, and the game is grid" in refusal(*grid)
    for broken in ("{", 100_000 * "["):
        mapped = tmp_path / "broken.json"
        mapped.write_text(broken)
        assert "it is no JSON" in refusal("localise", *zoo, "--mask-classes", mapped)


def _voc_names() -> tuple[str, ...]:
    from robustbench_bcos.data.datasets.voc import voc_class_names

    return voc_class_names()
