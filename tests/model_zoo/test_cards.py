"""Cards: read without running anything, and refused if they do not fit or point outside their folder."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import read_table
from robustbench_bcos.model_zoo import cards
from robustbench_bcos.model_zoo.cards import Card, EncodingSpec, TrainingSpec, Zoo
from tests.drafts import BCOS
from tests.refusals import refused

CARD = BCOS | {
    "name": "mine",
    "architecture": "bcos_resnet20",
    "arguments": {"b": 1.5},
    "image_size": [8, 12],
    "weights": {"file": "mine.safetensors", "sha256": 64 * "0"},
    "licence": "CC0-1.0",
}


def write_card(folder: Path, **changes: Any) -> Path:
    """A card with some keys replaced, or left out where the change is None."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {key: value for key, value in {**CARD, **changes}.items() if value is not None}
    file = folder / f"{values.get('name', 'nameless')}.toml".replace("/", "-")
    file.write_text(tomli_w.dumps(values), encoding="utf-8")
    return file


def refusal(folder: Path) -> str:
    return refused(Zoo, [folder])


def test_a_users_cards_are_added_to_the_packaged_ones(tmp_path: Path) -> None:
    write_card(tmp_path)
    zoo = Zoo([tmp_path])
    assert zoo.entries.keys() == {*Zoo().entries, "mine"}
    card, folder = zoo["mine"]
    assert (card.arguments, card.image_size, folder) == ({"b": 1.5}, (8, 12), tmp_path)
    assert str(card.training) == "natural"
    assert zoo["mine"].weights_file == tmp_path.resolve() / "mine.safetensors"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"licens": "MIT"}, "'licens': did you mean 'licence'?"),
        ({"weights": {**CARD["weights"], "sha": "x"}}, "'weights.sha': did you mean 'weights.sha256'?"),
        ({"weights": {"file": "x", "sha256": 63 * "0"}}, "sha256 must have all 64 digits, unless there is a url"),
        ({"weights": {"file": "x", "sha256": 65 * "0"}}, "weights.sha256: string should match pattern"),
        ({"weights": {"file": "x", "sha256": 64 * "F"}}, "weights.sha256: string should match pattern"),
        ({"weights": {"file": "x", "sha256": 63 * "0" + "g"}}, "weights.sha256: string should match pattern"),
        ({"weights": {"file": "x"}}, "sha256 must have all 64 digits, unless there is a url"),
        ({"weights": {**CARD["weights"], "format": "pickle"}}, "weights.format: input should be 'safetensors'"),
        ({"licence": None}, "licence: field required"),
        ({"name": None}, "name: field required"),
        ({"name": "../mine"}, "name: string should match pattern"),
        ({"name": "my*"}, "name: string should match pattern"),
        ({"name": "my:net"}, "name: string should match pattern"),
        ({"family": "cnn"}, "family: input should be 'bcos' or 'conventional', got 'cnn'"),
        ({"loss": "mse"}, "loss: input should be"),
        ({"classes": 1}, "classes: input should be greater than or equal to 2"),
        ({"image_size": [8]}, "image_size"),
        ({"encoding": {"kind": "sixfold"}}, "encoding.kind: input should be"),
        ({"encoding": {"kind": "normalize"}}, "mean and std belong to kind 'normalize'"),
        ({"encoding": {"kind": "normalize", "mean": [0.1, 0.2, 0.3]}}, "mean and std belong to kind 'normalize'"),
        ({"encoding": {"kind": "none", "std": [0.1, 0.2, 0.3]}}, "mean and std belong to kind 'normalize'"),
        ({"training": {"kind": "adversarial"}}, "norm and eps belong to kind 'adversarial'"),
        ({"training": {"kind": "adversarial", "norm": "l2"}}, "norm and eps belong to kind 'adversarial'"),
        ({"training": {"eps": "0.5"}}, "norm and eps belong to kind 'adversarial'"),
        ({"clean_accuracy": {"correct": -1, "total": 4}}, "clean_accuracy.correct"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    file = write_card(tmp_path, **changes)
    message = refusal(tmp_path)
    assert str(file) in message
    assert said in message


def test_a_card_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("name = ")
    assert f"{tmp_path}/mine.toml is not a readable TOML file" in refusal(tmp_path)


def test_encodings_and_training_say_what_they_are() -> None:
    assert EncodingSpec(kind="none").constants == {}
    constants = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    assert EncodingSpec(kind="normalize", **constants).constants == constants
    assert str(TrainingSpec(kind="adversarial", norm="linf", eps="8/255")) == "adversarial linf 8/255"


@pytest.mark.parametrize("place", ["../x.safetensors", "sub/../../x.safetensors", "{}/x.safetensors", "link", "door/x"])
def test_weights_outside_the_cards_folder_are_refused(tmp_path: Path, place: str) -> None:
    folder, outside = tmp_path / "zoo", tmp_path / "x.safetensors"
    outside.touch()
    write_card(folder, weights={"file": place.format(tmp_path), "sha256": 64 * "0"})
    (folder / "link").symlink_to(outside)
    (folder / "door").symlink_to(tmp_path)
    with pytest.raises(RequestError, match=r"^card 'mine': weights file .* lies outside the card's folder: move it"):
        _ = Zoo([folder])["mine"].weights_file


def test_weights_in_a_sub_folder_are_found_and_so_is_a_zoo_behind_a_link(tmp_path: Path) -> None:
    write_card(tmp_path / "zoo", weights={"file": "files/x.pt", "sha256": 64 * "0"})
    (tmp_path / "link").symlink_to(tmp_path / "zoo")
    assert Zoo([tmp_path / "link"])["mine"].weights_file == (tmp_path / "zoo/files/x.pt").resolve()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").startswith(f"--zoo {tmp_path}/none is not a folder: give")


def test_the_same_name_in_two_folders_is_refused_with_both(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_card(tmp_path / place)
    with pytest.raises(RequestError, match=f"^card 'mine' is in {tmp_path}/one and in {tmp_path}/two: rename one"):
        Zoo([tmp_path / "one", tmp_path / "two"])


def test_a_card_of_ones_own_takes_the_place_of_a_packaged_one(tmp_path: Path) -> None:
    name = next(iter(Zoo().entries))
    write_card(tmp_path, name=name)
    assert Zoo([tmp_path])[name].folder == tmp_path
    assert len(Zoo([tmp_path]).entries) == len(Zoo().entries)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("net-b", ["net-b"]),
        ("net-*", ["net-a", "net-b", "net-c1"]),
        ("net-?", ["net-a", "net-b"]),
        ("net-[bx]", ["net-b"]),
        ("*c1", ["net-c1"]),
    ],
)
def test_globs_are_answered_in_order_of_name(tmp_path: Path, pattern: str, names: list[str]) -> None:
    # One file may hold a name other than its own.
    for name, file in [("net-c1", "1"), ("net-a", "3"), ("net-b", "2")]:
        write_card(tmp_path, name=name).rename(tmp_path / f"{file}.toml")
    assert [entry.card.name for entry in Zoo([tmp_path]).matching(pattern)] == names


@pytest.mark.parametrize("pattern", ["net-b", "nets-*", "NET-A", "NET-*"])
def test_a_name_and_a_glob_that_match_nothing_are_refused(tmp_path: Path, pattern: str) -> None:
    write_card(tmp_path, name="net-a")
    with pytest.raises(RequestError, match=r"^unknown model '.*': .*choose from .*net-a"):
        Zoo([tmp_path]).matching(pattern)


def test_a_checkpoint_in_the_place_of_a_name_is_told_where_it_belongs(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    with pytest.raises(RequestError, match=r"last\.ckpt is neither known nor a file that is there: check the path$"):
        Zoo().matching(str(file))
    file.touch()
    with pytest.raises(RequestError, match=r"last\.ckpt is a file: --weights reads it with --architecture, and in"):
        Zoo().matching(str(file))


class TestCardsOfInstalledPackages:
    """Found through the entry point group, without importing anything."""

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def entry_points(*, group: str) -> list[EntryPoint]:
            return [EntryPoint("more", "more_cards_for_tests", group)] if group == "robustbench_bcos.cards" else []

        monkeypatch.setattr(cards, "entry_points", entry_points)
        monkeypatch.syspath_prepend(tmp_path)

    def test_a_package_adds_cards_and_is_not_imported(self, tmp_path: Path) -> None:
        write_card(tmp_path / "more_cards_for_tests", name="theirs")
        (tmp_path / "more_cards_for_tests/__init__.py").write_text("raise AssertionError('imported')\n")
        assert Zoo()["theirs"].folder == tmp_path / "more_cards_for_tests"

    def test_a_folder_of_nothing_but_cards_adds_them_too(self, tmp_path: Path) -> None:
        write_card(tmp_path / "more_cards_for_tests", name="theirs")
        assert Zoo()["theirs"].folder == tmp_path / "more_cards_for_tests"

    def test_a_package_that_is_gone_is_refused_and_named(self) -> None:
        with pytest.raises(RequestError, match=r"^entry point 'more' gives cards in 'more_cards_.*', which is no"):
            Zoo()

    def test_a_module_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "more_cards_for_tests.py").touch()
        with pytest.raises(RequestError, match=r"^entry point 'more' gives cards in 'more_cards_.*', which is no"):
            Zoo()


def test_reading_cards_imports_no_torch_and_runs_nothing() -> None:
    program = (
        "import sys; from robustbench_bcos.model_zoo.cards import Zoo; zoo = Zoo(); "
        "assert len(zoo.entries) > 0; assert 'torch' not in sys.modules"
    )
    paths = {"PYTHONPATH": os.pathsep.join(path for path in [os.getcwd(), *sys.path] if path)}
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **paths})


def test_a_card_that_is_shown_can_be_read_again(tmp_path: Path) -> None:
    card = read_table(Card, write_card(tmp_path, training={"kind": "adversarial", "norm": "l2", "eps": "1/2"}))
    shown = tmp_path / "shown.toml"
    shown.write_text(tomli_w.dumps(card.model_dump(mode="json", exclude_none=True)))
    assert read_table(Card, shown) == card
