"""Maps against masks with void and several objects, and maps whose scores are known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import robustbench_bcos as rb
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.maps import at_mask, energies
from robustbench_bcos.localisation.config import LocaliseConfig
from robustbench_bcos.localisation.games.masks import MaskPointing
from robustbench_bcos.localisation.masks import (
    THRESHOLDS,
    areas,
    average_precisions,
    best_threshold,
    centre_maps,
    iou_curves,
    random_maps,
)
from robustbench_bcos.localisation.scene import Box, Scene, Unit
from tests.reference import mask_scores as reference

VOID = 255


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scene(seed: int) -> tuple[Tensor, Tensor]:
    """Two objects, void between and around them: masks of indices 0, 3 and 7."""
    mask = torch.zeros(11, 14, dtype=torch.int64)
    mask[1:7, 1:6] = 3
    mask[3:10, 7:13] = 7
    mask[random(11, 14, seed=seed) > 1] = VOID
    return torch.stack([mask == 3, mask == 7]), mask != VOID


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_numpy_pixel_by_pixel(seed: int) -> None:
    regions, valid = scene(seed)
    # Rounded, so that values are tied.
    maps = (random(2, 11, 14, seed=seed + 7) * 4).round() / 4 + regions * 0.5
    energy, empty = energies(maps, regions, valid)
    precisions, curves = average_precisions(maps, regions, valid), iou_curves(maps, regions, valid)
    shares = areas(regions, valid)
    assert not empty.any()
    for target in range(2):
        one, region, counted = maps[target].numpy(), regions[target].numpy(), valid.numpy()
        assert energy[target] == pytest.approx(reference.energy(one, region, counted))
        assert shares[target] == pytest.approx(reference.area(region, counted))
        assert precisions[target] == pytest.approx(reference.average_precision(one, region, counted))
        expected = [reference.iou(one, region, counted, threshold) for threshold in THRESHOLDS]
        assert curves[target].tolist() == pytest.approx(expected)


def everything(maps: Tensor, regions: Tensor, valid: Tensor) -> list[Tensor]:
    energy, _ = energies(maps, regions, valid)
    return [energy, areas(regions, valid), average_precisions(maps, regions, valid), iou_curves(maps, regions, valid)]


def test_what_lies_in_void_changes_nothing() -> None:
    regions, valid = scene(1)
    maps = random(2, 11, 14)
    # Also where the object's own border is void.
    changed = maps.masked_fill(~valid, 1e9)
    for first, second in zip(
        everything(maps, regions, valid), everything(changed, regions | ~valid, valid), strict=True
    ):
        assert torch.equal(first, second)


def test_an_oracle_scores_1_and_a_constant_map_the_area() -> None:
    regions, valid = scene(2)
    shares = areas(regions, valid)
    oracle, constant = regions.double(), torch.full((2, 11, 14), 0.3, dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    assert torch.equal(energies(oracle, regions, valid)[0], ones)
    assert torch.equal(average_precisions(oracle, regions, valid), ones)
    assert torch.equal(iou_curves(oracle, regions, valid), torch.ones(2, len(THRESHOLDS), dtype=torch.float64))
    torch.testing.assert_close(energies(constant, regions, valid)[0], shares)
    torch.testing.assert_close(average_precisions(constant, regions, valid), shares)
    torch.testing.assert_close(iou_curves(constant, regions, valid)[:, 0], shares)


def test_negative_evidence_is_not_made_positive() -> None:
    regions, valid = scene(0)
    maps = torch.where(regions, -5.0, 1.0).double()
    assert energies(maps, regions, valid)[0].tolist() == [0, 0]
    assert torch.equal(average_precisions(maps, regions, valid), areas(regions, valid))


def test_empty_maps_have_no_share_and_are_told() -> None:
    regions, valid = scene(0)
    # Positive only where nothing counts.
    maps = torch.where(valid, -1.0, 1.0).double().expand(2, -1, -1)
    energy, empty = energies(maps, regions, valid)
    assert empty.all()
    assert energy.isnan().all()
    assert iou_curves(maps, regions, valid).isnan().all()


def test_maps_are_scored_at_the_size_of_the_mask() -> None:
    maps = random(1, 5, 7)
    sized = at_mask(maps, (10, 14))
    assert sized.shape == (1, 10, 14)
    assert sized.max() <= maps.max()
    assert sized.min() >= maps.min()
    # Bilinear: between four pixels, their mixture.
    expected = (9 * maps[0, 0, 0] + 3 * maps[0, 0, 1] + 3 * maps[0, 1, 0] + maps[0, 1, 1]) / 16
    torch.testing.assert_close(sized[0, 1, 1], expected)
    assert at_mask(maps, (5, 7)) is maps


def test_the_best_threshold_is_that_of_the_largest_mean_and_empty_maps_do_not_count() -> None:
    curves = torch.full((3, len(THRESHOLDS)), 0.2, dtype=torch.float64)
    curves[0, 4], curves[1, 9], curves[2] = 0.9, 0.6, torch.nan
    assert best_threshold(curves) == 4
    assert best_threshold(curves[2:]) is None


def test_controls_know_nothing_of_the_picture() -> None:
    one, again, other = random_maps(2, (8, 9), 0, 3), random_maps(2, (8, 9), 0, 3), random_maps(2, (8, 9), 0, 4)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert (one >= 0).all()
    bump = centre_maps(1, (9, 13))[0]
    assert bump.argmax() == 4 * 13 + 6
    torch.testing.assert_close(bump, bump.flip(0))
    # One standard deviation is a quarter of a side.
    assert centre_maps(1, (400, 400))[0, 100, 200] == pytest.approx(math.exp(-0.5), abs=0.01)


def played(number: int, regions: Tensor, valid: Tensor) -> Scene:
    whole = Box(top=0, left=0, height=11, width=14)
    return Scene(
        number=number,
        picture=torch.zeros(3, 11, 14),
        targets=(3, 7),
        images=(number, number),
        regions=regions,
        valid=valid,
        views=(whole, whole),
        units=(Unit(whole, (0, 1)),),
    )


def test_the_threshold_of_a_picture_was_fixed_on_pictures_of_the_other_half() -> None:
    regions, valid = scene(0)
    # Evidence beside the object must be cut off: in pictures of even number a low threshold does, in others a high one.
    faint, strong = (torch.where(regions, 1.0, beside).double() for beside in (0.1, 0.8))
    shown = [(played(number, regions, valid), strong if number % 2 else faint) for number in range(4)]
    game = MaskPointing(LocaliseConfig(game="masks")).fitted(iter(shown))
    assert [THRESHOLDS[place] for place in game.thresholds if place is not None] == [0.85, 0.15]
    even, odd = (game.scores(maps, one).values["iou"] for one, maps in shown[:2])
    assert even.tolist() == [1, 1]
    # The low threshold shows everything.
    torch.testing.assert_close(odd, areas(regions, valid))
    alone = MaskPointing(LocaliseConfig(game="masks")).fitted(iter(shown[:1]))
    assert alone.scores(shown[0][1], shown[0][0]).values["iou"].isnan().all()


def own(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    masks = torch.stack([torch.where(scene(seed)[1], scene(seed)[0][0] * 3, VOID) for seed in range(count)])
    return random(count, 11, 14, seed=9) + 2 * (masks == 3), masks, torch.full((count,), 3)


def test_ones_own_maps_are_scored_and_thresholds_come_from_the_other_half() -> None:
    maps, masks, classes = own()
    rows = rb.score_masks(maps.numpy(), masks.numpy(), classes.tolist())
    assert len(rows) == 6
    even, odd = ([position for position in range(6) if position % 2 == half] for half in (0, 1))
    curves = torch.cat([iou_curves(maps[[i]], (masks[[i]] == 3), masks[i] != VOID) for i in range(6)])
    for half, other in ((even, odd), (odd, even)):
        fixed = best_threshold(curves[other])
        assert fixed is not None
        assert set(rows["threshold"][half]) == {THRESHOLDS[fixed]}
        assert rows["iou"][half].tolist() == curves[half, fixed].tolist()
    # Those of one picture are never in both halves.
    together = rb.score_masks(maps, masks, classes, pictures=[5, 5, 5, 5, 5, 5])
    assert together["iou"].isna().all()
    np.testing.assert_allclose(rows["energy_ratio"], rows["energy"] / rows["area"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda maps, masks, classes: (maps * torch.nan, masks, classes), "NaN or infinity in map 0"),
        (lambda maps, masks, classes: (maps[:2], masks, classes), "a mask and a class for each map"),
        (lambda maps, masks, classes: (maps, masks * 1.0, classes), "whole numbers"),
        (lambda maps, masks, classes: (maps, masks * 0 + VOID, classes), "mask 0 shows no pixel of its class 3"),
        (lambda maps, masks, classes: (maps, masks, classes + 1), "mask 0 shows no pixel of its class 4"),
    ],
    ids=["not finite", "fewer maps", "mixed classes", "all void", "class that is not there"],
)
def test_what_cannot_be_scored_is_refused(change: object, said: str) -> None:
    assert callable(change)
    with pytest.raises(RequestError, match=said):
        rb.score_masks(*change(*own()))
