"""Randomness belongs to the image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_bcos.core.rng import PerImageRng, generator

words = st.integers(0, 2**32 - 1)
keys = st.tuples(words, words, words)


def draws(source: torch.Generator) -> list[int]:
    return torch.randint(2**62, (3,), generator=source).tolist()


@given(key=keys)
@settings(deadline=None)
def test_the_same_key_draws_the_same(key: tuple[int, ...]) -> None:
    assert draws(generator(*key)) == draws(generator(*key))


@given(first=keys, second=keys)
@settings(deadline=None)
def test_different_keys_draw_differently(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    assert first == second or draws(generator(*first)) != draws(generator(*second))


@given(key=keys.filter(lambda key: len(set(key)) == 3))
@settings(deadline=None)
def test_the_order_of_a_key_counts(key: tuple[int, ...]) -> None:
    assert draws(generator(*key)) != draws(generator(*reversed(key)))


@pytest.mark.parametrize(
    ("first", "second"),
    [((1,), (1, 0)), ((3, 0), (3, 0, 0)), ((5, 1, 7), (2**32 + 5, 7, 0))],
    ids=["trailing zero", "two trailing zeros", "seed of more than 32 bits"],
)
def test_a_key_is_more_than_its_digits(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    assert draws(generator(*first)) != draws(generator(*second))


def test_an_images_draws_depend_on_seed_index_and_restart_alone() -> None:
    together = PerImageRng.of(3, [8, 2, 5])
    alone = PerImageRng.of(3, [2])
    assert draws(together(1)[1]) == draws(alone(1)[0]) == draws(generator(3, 2, 1))
    assert draws(together(1)[1]) == draws(together(1)[1])


def test_seeds_images_and_restarts_draw_independently() -> None:
    sources = [source for seed in (0, 1) for restart in (0, 1, 2) for source in PerImageRng.of(seed, range(4))(restart)]
    assert len({tuple(draws(source)) for source in sources}) == 2 * 3 * 4


def test_parts_draw_as_independently_as_restarts() -> None:
    whole = PerImageRng.of(0, range(4))
    parts = [whole, whole.fold_in(0), whole.fold_in(1), whole.fold_in(1).fold_in(0)]
    sources = [source for part in parts for restart in (0, 1, 2) for source in part(restart)]
    assert len({tuple(draws(source)) for source in sources}) == 4 * 3 * 4


def test_a_part_draws_for_an_image_the_same_whichever_others_it_has() -> None:
    whole = PerImageRng.of(3, [8, 2, 5])
    few = whole.fold_in(4).select([2, 0])
    assert few.indices == (5, 8)
    together = whole.fold_in(4).select([0, 1, 2])
    assert draws(few(1)[0]) == draws(together(1)[2])
    assert draws(few(1)[1]) == draws(together(1)[0])


def test_copies_of_an_image_draw_independently_and_the_same_whichever_others_there_are() -> None:
    repeated = PerImageRng.of(3, [8, 2]).fold_in(1).repeated(3)
    assert repeated.indices == (8, 2) * 3
    found = [tuple(draws(source)) for restart in (0, 1) for source in repeated(restart)]
    assert len(set(found)) == 2 * 3 * 2
    alone = PerImageRng.of(3, [2]).fold_in(1).repeated(3).select([2])
    assert draws(alone(0)[0]) == list(found[5])
    assert draws(repeated.select([5, 0])(0)[0]) == list(found[5])


@pytest.mark.parametrize("indices", [[4, 0, 9], (4, 0, 9), torch.tensor([4, 0, 9]), np.array([4, 0, 9]).tolist()])
def test_indices_may_come_as_any_sequence(indices: list[int] | torch.Tensor) -> None:
    built = PerImageRng.of(6, indices)
    assert built == PerImageRng(6, (4, 0, 9))
    assert all(type(index) is int for index in built.indices)


def test_drawing_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), str(np.random.get_state())
    draws(PerImageRng.of(0, range(5))(2)[3])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]
