"""Seven measures of the similarity of two maps: what each is, and what all have in common."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from torch import Tensor

from robustbench_bcos.explanations.similarity import MEASURES
from tests.reference.maps import DIFFERENCES, WINDOW, Map

HEIGHT, WIDTH = 8, 9

BEST = {"cosine": 1, "pearson": 1, "spearman": 1, "topk": 1, "ssim": 1, "mass": 0, "centre": 0}
RANGES = {
    "cosine": (-1, 1),
    "pearson": (-1, 1),
    "spearman": (-1, 1),
    "topk": (0, 1),
    "ssim": (-1, 1),
    "mass": (0, 2),
    "centre": (0, math.hypot(HEIGHT - 1, WIDTH - 1)),
}
NEEDS_MASS = {"cosine", "pearson", "spearman", "topk", "mass", "centre"}
NEEDS_CONTRAST = {"pearson", "spearman", "topk"}

# float64; variances are differences of means of squares, which leaves 1e-16 relative to the squares.
CLOSE = {"rtol": 1e-9, "atol": 1e-12}

maps = arrays(
    # Sixteenths, so that there are ties and scaling makes no new ones.
    np.int64,
    (HEIGHT, WIDTH),
    elements=st.integers(-64, 64),
).map(lambda values: values / 16)
scales = st.floats(1e-3, 1e3)


def normal(*shape: int, seed: int = 0) -> Map:
    return np.random.default_rng(seed).normal(size=shape)


def measure(name: str, first: Map, second: Map) -> float:
    [value] = MEASURES[name](torch.from_numpy(first)[None], torch.from_numpy(second)[None])
    return float(value)


def measure_batch(name: str, first: Tensor, second: Tensor) -> Tensor:
    return MEASURES[name](first, second)


def test_reference_knows_every_measure() -> None:
    assert set(DIFFERENCES) == set(MEASURES) == set(BEST) == set(RANGES)


@pytest.mark.parametrize("name", MEASURES)
class TestEveryMeasure:
    @pytest.mark.parametrize("shape", [(7, 10), (13, 8), (5, 6)])
    def test_is_what_its_definition_says(self, name: str, shape: tuple[int, int]) -> None:
        first = normal(*shape)
        second = 0.5 * first + normal(*shape, seed=1)
        expected = DIFFERENCES[name](first, second)
        assert measure(name, first, second) == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)

    @settings(max_examples=15, deadline=None)
    @given(first=maps, second=maps)
    def test_is_what_its_definition_says_of_maps_with_ties(self, name: str, first: Map, second: Map) -> None:
        expected = DIFFERENCES[name](first, second)
        assert measure(name, first, second) == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)

    @settings(max_examples=20, deadline=None)
    @given(first=maps, second=maps)
    def test_is_symmetric(self, name: str, first: Map, second: Map) -> None:
        there, back = measure(name, first, second), measure(name, second, first)
        assert there == pytest.approx(back, rel=1e-12, abs=1e-12, nan_ok=True)

    @settings(max_examples=20, deadline=None)
    @given(values=maps)
    def test_equal_maps_give_the_best_value(self, name: str, values: Map) -> None:
        found = measure(name, values, values.copy())
        if is_defined(name, values):
            assert found == pytest.approx(BEST[name], abs=1e-9)
        else:
            assert math.isnan(found)

    @settings(max_examples=20, deadline=None)
    @given(first=maps, second=maps, scale=scales, other=scales)
    def test_does_not_depend_on_the_scale_of_either_map(
        self, name: str, first: Map, second: Map, scale: float, other: float
    ) -> None:
        plain, scaled = measure(name, first, second), measure(name, scale * first, other * second)
        assert scaled == pytest.approx(plain, rel=1e-9, abs=1e-9, nan_ok=True)

    @settings(max_examples=20, deadline=None)
    @given(first=maps, second=maps)
    def test_is_in_its_range_and_not_a_number_exactly_where_it_is_not_defined(
        self, name: str, first: Map, second: Map
    ) -> None:
        found = measure(name, first, second)
        if is_defined(name, first) and is_defined(name, second):
            low, high = RANGES[name]
            assert low - 1e-12 <= found <= high + 1e-12
        else:
            assert math.isnan(found)

    def test_batch_is_measured_as_its_images_are_one_by_one(self, name: str) -> None:
        # Of sizes so different that nothing of one image could hide in another.
        size = torch.tensor([1e-4, 1.0, 1e4]).double()[:, None, None]
        first, second = size * torch.from_numpy(normal(3, 7, 9)), torch.from_numpy(normal(3, 7, 9, seed=1)) / size
        together = measure_batch(name, first, second)
        assert together.shape == (3,)
        alone = [measure_batch(name, a[None], b[None])[0] for a, b in zip(first, second, strict=True)]
        torch.testing.assert_close(together, torch.stack(alone), **CLOSE)

    @pytest.mark.parametrize("second", [normal(HEIGHT, WIDTH), np.zeros((HEIGHT, WIDTH))])
    def test_map_of_zeros_has_no_measure_that_needs_a_direction(self, name: str, second: Map) -> None:
        zeros = np.zeros((HEIGHT, WIDTH))
        for found in (measure(name, zeros, second), measure(name, second, zeros)):
            assert math.isnan(found) == (name in NEEDS_MASS)

    @pytest.mark.parametrize("level", [1.0, -0.1, 1 / 3])
    def test_constant_map_has_no_correlation(self, name: str, level: float) -> None:
        constant, varied = np.full((HEIGHT, WIDTH), level), normal(HEIGHT, WIDTH)
        for found in (measure(name, constant, varied), measure(name, varied, constant)):
            assert math.isnan(found) == (name in NEEDS_CONTRAST)

    def test_undefined_image_leaves_the_others_of_its_batch_alone(self, name: str) -> None:
        first, second = torch.from_numpy(normal(3, 7, 9)), torch.from_numpy(normal(3, 7, 9, seed=1))
        expected = measure_batch(name, first, second)[[0, 2]]
        first[1] = 0
        torch.testing.assert_close(measure_batch(name, first, second)[[0, 2]], expected, **CLOSE)

    @pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 1), (7, 7)])
    def test_only_structure_needs_an_image_of_the_size_of_its_window(self, name: str, shape: tuple[int, int]) -> None:
        found = measure(name, normal(*shape), normal(*shape, seed=1))
        too_small = name == "ssim" and min(shape) < WINDOW
        assert math.isnan(found) == (too_small or (name in NEEDS_CONTRAST and shape == (1, 1)))

    def test_map_with_a_pixel_that_is_no_number_has_no_measure(self, name: str) -> None:
        first, second = torch.from_numpy(normal(2, 7, 9)), torch.from_numpy(normal(2, 7, 9, seed=1))
        first[0, 3, 4] = math.nan
        for found in (measure_batch(name, first, second), measure_batch(name, second, first)):
            assert found.isnan().tolist() == [True, False]

    def test_maps_of_a_model_in_float32_are_measured_in_float64_and_left_alone(self, name: str) -> None:
        first = torch.from_numpy(normal(2, 7, 9)).float().requires_grad_()
        second = torch.from_numpy(normal(2, 7, 9, seed=1)).float()
        kept = [first.detach().clone(), second.clone()]
        found = measure_batch(name, first, second)
        assert found.dtype == torch.float64
        assert not found.requires_grad
        assert torch.equal(found, measure_batch(name, kept[0].double(), kept[1].double()))
        assert torch.equal(first, kept[0])
        assert torch.equal(second, kept[1])


def is_defined(name: str, values: Map) -> bool:
    if name in NEEDS_CONTRAST:
        return bool(np.ptp(values) > 0)
    return name not in NEEDS_MASS or bool(values.any())


@pytest.mark.parametrize(
    ("name", "expected"), [("cosine", -1), ("pearson", -1), ("spearman", -1), ("topk", 0), ("mass", 0), ("centre", 0)]
)
def test_opposite_maps_are_far_apart_for_measures_that_see_signs(name: str, expected: float) -> None:
    values = normal(HEIGHT, WIDTH)
    assert measure(name, values, -values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(7, 7), (8, 9), (32, 30)])
def test_structure_is_torchmetrics(shape: tuple[int, int]) -> None:
    image = pytest.importorskip("torchmetrics.functional.image")
    first = torch.from_numpy(normal(4, *shape))
    second = torch.stack([0.5 * first[0] + first[1], -first[1], torch.zeros(shape), torch.ones(shape)])
    scaled = [maps / maps.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-300) for maps in (first, second)]
    asked = {"gaussian_kernel": False, "kernel_size": WINDOW, "data_range": 2.0, "reduction": "none"}
    expected = image.structural_similarity_index_measure(*(maps[:, None] for maps in scaled), **asked)
    # A mean over 49 float64 values, summed in another order.
    torch.testing.assert_close(MEASURES["ssim"](first, second), expected, rtol=0, atol=1e-12)


def test_ranks_are_scipys_of_infinite_values_signed_zeros_and_maps_in_any_order_in_memory() -> None:
    first, second = normal(2, HEIGHT, WIDTH)
    first.flat[:6] = math.inf, -math.inf, 0.0, -0.0, math.inf, 0.0
    expected = stats.spearmanr(first.ravel(), second.ravel()).statistic
    batch = torch.from_numpy(np.stack([first, second])).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    [found] = MEASURES["spearman"](batch[:1], batch[1:])
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_top_tenth_counts_the_pixels_in_common() -> None:
    first, second = torch.zeros(1, 5, 6), torch.zeros(1, 5, 6)
    first[0, 0, :3] = torch.tensor([3.0, 2.0, 1.0])
    second[0, 0, 1:4] = torch.tensor([1.0, 2.0, 3.0])
    assert MEASURES["topk"](first, second).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("row", [0, 3])
def test_top_of_a_sparse_map_is_what_it_says_wherever_that_lies(row: int) -> None:
    # Filled up with zeros by their place, two maps that share nothing had half of their top in common.
    first, second = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    first[0, row, 1:3], second[0, row + 1, 1:3] = 1.0, 1.0
    assert MEASURES["topk"](first, second).item() == 0
    assert MEASURES["topk"](first, first).item() == 1
    second[0, row, 1] = 2.0
    assert MEASURES["topk"](first, second).item() == pytest.approx(1 / 3)


def test_top_is_of_contributions_and_not_of_magnitudes() -> None:
    first, second = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 5, 6)
    second.copy_(first)
    second[0, first[0] < 0.5] = -9.0
    assert MEASURES["topk"](first, second).item() == 1


def test_centre_moves_by_as_many_pixels_as_the_map() -> None:
    first = torch.zeros(1, 9, 11)
    first[0, 2:4, 3:5] = 1
    second = -first.roll((3, 4), dims=(1, 2))
    assert MEASURES["centre"](first, second).item() == pytest.approx(5)


def test_mass_of_disjoint_maps_is_2() -> None:
    first, second = torch.zeros(1, 5, 6), torch.zeros(1, 5, 6)
    first[0, 0], second[0, 1] = 0.3, -7.0
    assert MEASURES["mass"](first, second).item() == pytest.approx(2)
