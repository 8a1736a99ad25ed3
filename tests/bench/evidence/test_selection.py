"""Which images a second search is spent on: the nearest to success and a spread of the others, and no more."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_bcos.bench.evidence.selection import FEWEST, Selection


def selection_of(count: int, images: int, most: int, seed: int) -> tuple[Selection, list[int]]:
    """Of images in any order, because nearness has nothing to do with their numbers."""
    robust = np.random.default_rng(seed).permutation(count).tolist()
    return Selection.of(robust, images, most), robust


counts = st.integers(1, 300)
# Of numbers alone: a selection is made in the test, because type checks of containers draw at random.
numbers = st.tuples(counts, st.integers(300, 12_000), st.integers(1, 400), counts)
quickly = settings(max_examples=60, deadline=None)


@quickly
@given(numbers)
def test_the_first_images_are_known_ones_and_no_more_than_allowed(drawn: tuple[int, int, int, int]) -> None:
    selection, robust = selection_of(*drawn)
    assert 1 <= len(selection.first) <= selection.most <= len(robust)
    assert set(selection.first) <= set(robust)
    assert set(selection.first.values()) <= {"nearest", "sample"}


@quickly
@given(numbers)
def test_the_nearest_come_first_and_without_a_gap(drawn: tuple[int, int, int, int]) -> None:
    selection, robust = selection_of(*drawn)
    nearest = [image for image, part in selection.first.items() if part == "nearest"]
    assert nearest == robust[: len(nearest)]
    assert nearest


@quickly
@given(numbers)
def test_where_everything_may_be_examined_everything_is(drawn: tuple[int, int, int, int]) -> None:
    selection, robust = selection_of(*drawn)
    if selection.most == len(robust):
        assert list(selection.first) == robust


@quickly
@given(numbers)
def test_the_sample_is_spread_evenly_over_the_others(drawn: tuple[int, int, int, int]) -> None:
    selection, robust = selection_of(*drawn)
    parts = list(selection.first.values())
    others = robust[parts.count("nearest") :]
    places = [others.index(image) for image, part in selection.first.items() if part == "sample"]
    assert len(places) <= FEWEST
    assert places == sorted(set(places))
    if places:
        # As many others before the first as after the last, and as many between two, but for rounding.
        even = len(others) / len(places)
        gaps = [after - before for before, after in itertools.pairwise(places)]
        assert all(abs(gap - even) <= 1 for gap in gaps)
        assert abs(places[0] - even / 2) <= 1
        assert abs(len(others) - places[-1] - even / 2) <= 1


@quickly
@given(numbers)
def test_a_search_goes_on_with_the_nearest_not_examined_and_ends(drawn: tuple[int, int, int, int]) -> None:
    selection, robust = selection_of(*drawn)
    examined = dict(selection.first)
    chosen = selection.following(examined)
    while chosen:
        assert not chosen.keys() & examined.keys()
        assert set(chosen.values()) == {"nearest"}
        left = [image for image in robust if image not in examined]
        assert list(chosen) == left[: len(chosen)]
        assert len(chosen) <= selection.tail
        examined |= chosen
        chosen = selection.following(examined)
    assert len(examined) == selection.most


def test_the_tail_is_a_hundredth_of_the_images_and_sixteen_at_least() -> None:
    tails = {images: Selection.of(range(10), images, 5).tail for images in (10, 364, 1600, 1601, 10_000)}
    assert tails == {10: 16, 364: 16, 1600: 16, 1601: 17, 10_000: 100}


def test_the_last_of_the_nearest_are_those_examined_last() -> None:
    selection = Selection(robust=[7, 3, 9, 1, 5], tail=2, most=5, begin=5)
    assert selection.last({3: True, 9: False, 7: True}) == [3, 9]
    assert selection.last([7]) == [7]
    assert selection.last([]) == []


def test_where_little_may_be_examined_half_of_it_is_the_nearest() -> None:
    parts = list(Selection.of(range(100, 200), 364, 9).first.values())
    assert (parts.count("nearest"), parts.count("sample")) == (5, 4)


def test_a_search_begun_briefly_may_go_on_to_the_end() -> None:
    selection = Selection.of(range(500), 1000, 500).briefly_begun
    parts = list(selection.first.values())
    assert (parts.count("nearest"), parts.count("sample")) == (48, 16)
    examined = dict(selection.first)
    while chosen := selection.following(examined):
        examined |= chosen
    assert len(examined) == 500
    assert len(Selection.of(range(64), 1000, 64).briefly_begun.first) == 64
