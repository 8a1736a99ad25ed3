"""Every definition of the score, on maps whose scores are known."""

import pytest
import torch

from robustbench_bcos.localisation import PROTOCOLS
from robustbench_bcos.localisation.config import LocaliseConfig
from robustbench_bcos.localisation.games.grid import GridPointing
from robustbench_bcos.localisation.protocol import SHARE

SIDES = ((4, 6), (9, 4))
"""Cells of a grid, and pixels of a side of each."""


def game(protocol: str, cells: int) -> GridPointing:
    return GridPointing(LocaliseConfig(protocol=protocol, cells=cells, smooth=1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("cells", "side"), SIDES)
def test_a_map_that_is_one_in_a_single_cell_scores_in_that_cell_alone(protocol: str, cells: int, side: int) -> None:
    played = game(protocol, cells)
    boxes = played.boxes(side, side)
    maps = torch.zeros(cells, side * played.side, side * played.side)
    for target in range(cells):
        maps.zero_()
        # All maps point at the cell of this target.
        boxes[target].cut(maps).fill_(1.0)
        shares = played.protocol.scores(maps, boxes, 1).values[SHARE]
        assert shares.tolist() == [float(other == target) for other in range(cells)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_constant_map_scores_one_over_the_number_of_cells(protocol: str) -> None:
    for cells, side in SIDES:
        played = game(protocol, cells)
        maps = torch.ones(cells, side * played.side, side * played.side)
        scores = played.protocol.scores(maps, played.boxes(side, side), 1)
        torch.testing.assert_close(scores.values[SHARE], torch.full((cells,), 1 / cells, dtype=torch.float64))
        assert not scores.empty.any()
