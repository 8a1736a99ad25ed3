"""Every definition of the score, on maps whose scores are known."""

import math

import numpy as np
import pytest
import torch

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.localisation import PROTOCOLS
from robustbench_bcos.localisation.config import LocaliseConfig
from robustbench_bcos.localisation.games.grid import GridPointing
from robustbench_bcos.localisation.protocol import deal
from robustbench_bcos.localisation.scoring import cells_of, score_grids

SIDES = ((4, 6), (9, 4))
"""Cells of a grid, and pixels of a side of each."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("cells", "side"), SIDES)
def test_a_map_that_is_one_in_a_single_cell_scores_in_that_cell_alone(protocol: str, cells: int, side: int) -> None:
    g = math.isqrt(cells)
    for place in range(cells):
        # By hand: where each protocol puts its k-th image.
        row, column = (place % g, place // g) if protocol == "bcos_v2" else (place // g, place % g)
        maps = torch.zeros(1, cells, side * g, side * g)
        maps[..., row * side : (row + 1) * side, column * side : (column + 1) * side] = 1
        expected = [float(other == place) for other in range(cells)]
        assert score_grids(maps, protocol, smooth=1)[0].tolist() == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("cells", "side"), SIDES)
def test_a_constant_map_scores_one_over_the_number_of_cells_and_an_oracle_one(
    protocol: str, cells: int, side: int
) -> None:
    g = math.isqrt(cells)
    constant = torch.full((2, cells, side * g, side * g), 0.3)
    torch.testing.assert_close(
        score_grids(constant, protocol, smooth=1), torch.full((2, cells), 1 / cells, dtype=torch.float64)
    )
    oracle = torch.zeros(1, cells, side * g, side * g)
    for target, box in enumerate(cells_of(PROTOCOLS[protocol], g, side, side)):
        box.cut(oracle[0, target]).fill_(2.0)
    assert score_grids(oracle, protocol, smooth=1)[0].tolist() == [1.0] * cells


@pytest.mark.parametrize(("protocol", "score"), [("ours", math.nan), ("bcos_v2", 0.0), ("rao2022", 0.0)])
def test_a_map_without_positive_contributions_has_no_score_unless_the_protocol_says_0(
    protocol: str, score: float
) -> None:
    maps = -torch.rand(1, 4, 8, 8)
    np.testing.assert_equal(score_grids(maps, protocol)[0].tolist(), [score] * 4)
    boxes = cells_of(PROTOCOLS[protocol], 2, 4, 4)
    assert PROTOCOLS[protocol].scores(maps[0], boxes, 1).empty.all()


def test_rao_takes_maps_of_at_most_1e_7_in_all_for_empty_and_others_do_not() -> None:
    maps = torch.zeros(1, 4, 4, 4)
    maps[..., 0, 0] = 9e-8
    assert score_grids(maps, "rao2022")[0].tolist() == [0.0] * 4
    assert score_grids(maps, "ours")[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert score_grids(2 * maps, "rao2022")[0].tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("protocol", ["ours", "bcos_v2"])
@pytest.mark.parametrize("smooth", [1, 3])
def test_scores_are_those_of_loops_over_pixels(protocol: str, smooth: int) -> None:
    """The published steps, one pixel after the other: sum in windows of the signed map, cut at 0, means of cells."""
    maps = torch.randn(2, 9, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = score_grids(maps, protocol, smooth=smooth)
    for grid in range(2):
        for target in range(9):
            blurred = np.zeros((12, 12))
            for y in range(12):
                for x in range(12):
                    near = maps[grid, target, max(0, y - smooth // 2) : y + smooth // 2 + 1]
                    blurred[y, x] = float(near[:, max(0, x - smooth // 2) : x + smooth // 2 + 1].sum()) / smooth**2
            positive = np.maximum(blurred, 0)
            means = positive.reshape(3, 4, 3, 4).mean(axis=(1, 3))
            row, column = (target % 3, target // 3) if protocol == "bcos_v2" else (target // 3, target % 3)
            assert found[grid, target].item() == pytest.approx(means[row, column] / means.sum(), abs=1e-12)


@pytest.mark.parametrize(("side", "cells", "ceiling"), [(8, 4, 0.48), (8, 9, 0.41), (32, 4, 0.88), (32, 9, 0.85)])
def test_the_customary_window_caps_an_oracle_and_ours_does_not(side: int, cells: int, ceiling: float) -> None:
    g = math.isqrt(cells)
    oracle = torch.zeros(1, cells, side * g, side * g)
    for target, box in enumerate(cells_of(PROTOCOLS["ours"], g, side, side)):
        box.cut(oracle[0, target]).fill_(1.0)
    assert score_grids(oracle, smooth=15).mean().item() == pytest.approx(ceiling, abs=0.005)
    assert score_grids(oracle).mean().item() > 0.97


@pytest.mark.parametrize(("side", "kernel"), [(8, 1), (32, 3), (64, 5), (224, 15), (336, 23)])
def test_the_window_grows_with_the_cell(side: int, kernel: int) -> None:
    assert PROTOCOLS["ours"].kernel(side) == kernel


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (torch.zeros(1, 5, 10, 10), "as it has cells, 4 or 9, got (1, 5, 10, 10)"),
        (torch.zeros(4, 8, 8), "maps must be of shape (grid, cell, height, width)"),
        (torch.zeros(1, 4, 9, 9), "got (1, 4, 9, 9)"),
        (torch.full((3, 4, 4, 4), math.nan), "NaN or infinity in grid 0"),
    ],
)
def test_maps_that_are_none_are_refused(maps: torch.Tensor, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        score_grids(maps)
    assert words in str(refused.value)


# Grids


def candidates(count: int, classes: int) -> dict[int, list[tuple[int, float]]]:
    return {label: [(place * classes + label, 1 - place / 100) for place in range(count)] for label in range(classes)}


def test_an_image_is_in_one_grid_at_most_and_no_class_is_in_a_grid_twice() -> None:
    grids = deal(candidates(6, 10), 9, seed=0)
    places = [place for grid in grids for place in grid]
    assert len(grids) == 6
    assert len(set(places)) == len(places)
    assert all(len({place % 10 for place in grid}) == 9 for grid in grids)
    assert grids != deal(candidates(6, 10), 9, seed=1)


def test_the_official_grids_skip_an_image_and_stop_while_a_grid_is_left() -> None:
    grids = PROTOCOLS["bcos_v2"].deal(candidates(3, 6), 4, seed=0)
    # By hand, with NumPy's generator as the official code seeds it.
    draws, left, order = np.random.RandomState(42), dict.fromkeys(range(6), 0), []
    while len(able := [label for label in left if left[label] < 3]) > 4:
        for label in draws.choice(able, size=4, replace=False).tolist():
            order.append(left[label] * 6 + label)
            left[label] += 1
    expected, start = [], 0
    while True:
        grid: list[int] = []
        while start < len(order) and len(grid) < 4:
            if order[start] % 6 not in [place % 6 for place in grid]:
                grid.append(order[start])
            start += 1
        if len(grid) < 4:
            break
        expected.append(tuple(grid))
        start += 1
    assert grids == expected
    assert grids


def test_whole_grids_are_not_attacked_for_models_that_see_none() -> None:
    with pytest.raises(RequestError, match="leave out budget"):
        GridPointing.check(LocaliseConfig(protocol="windowed", budget="grid"))


def test_windows_give_the_mean_of_their_maps() -> None:
    """An explainer whose map is the picture itself gives the picture back."""
    picture = torch.rand(1, 3, 10, 10)
    boxes = cells_of(PROTOCOLS["windowed"], 2, 5, 5)
    shown: list[tuple[int, ...]] = []

    def explainer(pictures: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        shown.append(tuple(pictures.shape))
        return pictures.sum(dim=1)[:, None].expand(-1, targets.shape[1], -1, -1)

    maps = PROTOCOLS["windowed"].maps(explainer, picture, torch.zeros(1, 4, dtype=torch.long), boxes)
    torch.testing.assert_close(maps, picture.sum(dim=1)[:, None].expand(-1, 4, -1, -1))
    assert set(shown) == {(1, 3, 5, 5)}
    assert len(shown) == 16
