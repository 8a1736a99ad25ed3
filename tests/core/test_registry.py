"""Registries are loud about duplicates and helpful about misses."""

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.core import registry as registries
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


# Modules of a package, and entry points of installed ones


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, with a package of fruit; what is imported from it is forgotten afterwards."""
    write(tmp_path / "fruits/__init__.py", "FRUIT = None")
    write(tmp_path / "fruits/kinds/__init__.py", "")
    for name in ("apple", "pear"):
        write(
            tmp_path / f"fruits/kinds/{name}.py",
            f"import fruits\nfruits.FRUIT.registered('{name}')(type('{name}', (), {{}}))",
        )
    write(tmp_path / "fruits/kinds/_peel.py", "raise AssertionError('no kind of fruit')")
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{content}\n")


def install(site: Path, name: str, module: str, *, attribute: str = "entry", package: str = "orchard") -> None:
    """As an installer would: a module, and metadata with an entry point."""
    write(site / f"{package}.py", module)
    write(site / f"{package}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0")
    write(site / f"{package}-1.0.dist-info/entry_points.txt", f"[test.fruit]\n{name} = {package}:{attribute}")


def of_fruits() -> Registry[type]:
    registry: Registry[type] = Registry("fruit", package="fruits.kinds", group="test.fruit")
    vars(import_module("fruits"))["FRUIT"] = registry
    return registry


def test_names_are_known_without_importing_anything(site: Path) -> None:
    install(site, "quince", "raise AssertionError('imported')")
    fruit = of_fruits()
    assert list(fruit) == ["apple", "pear", "quince"]
    assert fruit.packaged == ("apple", "pear")
    assert "quince" in fruit
    assert "_peel" not in fruit
    assert len(fruit) == 3
    with pytest.raises(RequestError, match=r"^unknown fruit 'quinze': did you mean 'quince'\?"):
        fruit["quinze"]
    assert not {"orchard", "fruits.kinds.apple"} & set(sys.modules)


def test_an_entry_is_imported_when_it_is_used_and_only_it(site: Path) -> None:
    fruit = of_fruits()
    assert fruit["apple"].__name__ == "apple"
    assert fruit["apple"] is fruit["apple"]
    assert "fruits.kinds.pear" not in sys.modules
    assert list(fruit) == ["apple", "pear"]


@pytest.mark.parametrize("registers", [False, True])
def test_an_installed_package_adds_an_entry_whether_it_registers_it_or_not(site: Path, registers: bool) -> None:
    decorator = "import fruits\n@fruits.FRUIT.registered('quince')\n" if registers else ""
    install(site, "quince", f"{decorator}class entry: pass")
    fruit = of_fruits()
    assert fruit["quince"] is import_module("orchard").entry


def test_installed_packages_are_looked_for_once_for_all_registries(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "quince", "class entry: pass")
    looked = []

    def look() -> Any:
        looked.append(1)
        return entry_points()

    monkeypatch.setattr(registries, "entry_points", look)
    assert [list(of_fruits()) for _ in range(3)] == 3 * [["apple", "pear", "quince"]]
    assert len(looked) == 1


def test_an_installed_package_that_fails_is_told_in_one_sentence(site: Path) -> None:
    install(site, "quince", "raise ValueError('too sour\\nand more')")
    with pytest.raises(
        RequestError,
        match=r"^fruit 'quince' of orchard:entry cannot be imported \(ValueError: too sour\): repair or uninstall it$",
    ):
        of_fruits()["quince"]


def test_a_module_that_does_not_register_its_name_is_a_fault_that_is_named(site: Path) -> None:
    write(site / "fruits/kinds/plum.py", "")
    with pytest.raises(ImportError, match=r"^module fruits\.kinds\.plum does not register the fruit 'plum'$"):
        of_fruits()["plum"]


def test_a_name_of_the_package_cannot_be_taken_by_code(site: Path) -> None:
    fruit = of_fruits()
    with pytest.raises(ValueError, match=r"^fruit 'apple' is already registered as <class 'fruits\.kinds\.apple"):
        fruit.register("apple", int)
    assert fruit["apple"].__name__ == "apple"
    with pytest.raises(ValueError, match="already registered"):
        fruit.register("apple", int)


@pytest.mark.parametrize("name", ["apple", "quince"])
def test_a_name_that_an_installed_package_offers_again_is_refused(site: Path, name: str) -> None:
    install(site, "quince", "class entry: pass", package="grove")
    install(site, name, "class entry: pass")
    with pytest.raises(RequestError, match=rf"^fruit '{name}' is offered twice, by .*orchard:entry.*: uninstall one"):
        of_fruits()[name]


def test_a_plug_in_cannot_take_the_name_of_an_installed_package(site: Path) -> None:
    install(site, "quince", "class entry: pass")
    fruit = of_fruits()
    with pytest.raises(ValueError, match=r"^fruit 'quince' is already registered as .*orchard"):
        fruit.register("quince", int)


@pytest.mark.parametrize("package", ["json.decoder", "json.nowhere"])
def test_a_registry_of_no_package_is_a_fault_that_is_named(package: str) -> None:
    with pytest.raises(ImportError, match=rf"^{package} is not a package, so it holds no fruit$"):
        list(Registry("fruit", package=package))


def test_an_installed_package_that_is_imported_already_keeps_its_name(site: Path) -> None:
    install(site, "quince", "class entry: pass")
    fruit = of_fruits()
    orchard = import_module("orchard")
    with pytest.raises(ValueError, match=r"^fruit 'quince' is already registered as .*orchard"):
        fruit.register("quince", int)
    fruit.register("quince", orchard.entry)
    assert fruit["quince"] is orchard.entry
