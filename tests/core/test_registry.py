"""Registries are loud about duplicates and helpful about misses."""

import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import Registry, unknown


@pytest.fixture
def fruit() -> Registry[str]:
    registry: Registry[str] = Registry("fruit")
    registry.register("pear", "a pear")
    registry.register("apple", "an apple")
    return registry


def test_entries_are_found_by_name_and_listed_in_order_of_registration(fruit: Registry[str]) -> None:
    assert fruit["apple"] == "an apple"
    assert list(fruit) == ["pear", "apple"]
    assert len(fruit) == 2
    assert "pear" in fruit
    assert "plum" not in fruit


def test_the_decorator_registers_and_returns_what_it_decorates() -> None:
    makers: Registry[type] = Registry("maker")

    @makers.registered("potter")
    class Potter:
        pass

    assert makers["potter"] is Potter


def test_a_duplicate_is_an_error_that_names_both_and_changes_nothing(fruit: Registry[str]) -> None:
    with pytest.raises(ValueError, match=r"^fruit 'pear' is already registered as 'a pear', not 'another'$"):
        fruit.register("pear", "another")
    with pytest.raises(ValueError, match="already registered"):
        fruit.registered("apple")("an apple")
    assert fruit["pear"] == "a pear"


def test_a_near_miss_is_answered_with_the_nearest_name(fruit: Registry[str]) -> None:
    with pytest.raises(RequestError, match=r"^unknown fruit 'aple': did you mean 'apple'\? choose from apple, pear$"):
        fruit["aple"]


def test_a_far_miss_is_answered_with_all_names(fruit: Registry[str]) -> None:
    with pytest.raises(RequestError, match=r"^unknown fruit 'xyz': choose from apple, pear$"):
        fruit["xyz"]


def test_a_miss_in_an_empty_collection_says_that_it_is_empty() -> None:
    assert str(unknown("fruit", "pear", [])) == "unknown fruit 'pear': choose from nothing (none is known)"


def test_of_many_names_the_nearest_are_listed_and_the_rest_is_counted() -> None:
    names = [f"pear-{number}" for number in range(24)]
    assert str(unknown("fruit", "pear-77", names)).endswith(f"choose from {', '.join(sorted(names))}")
    said = str(unknown("fruit", "aple", ["apple", *names]))
    assert said.startswith("unknown fruit 'aple': did you mean 'apple'? choose from apple, ")
    assert said.endswith(" and 17 others")
    assert said.count("pear-") == 7
