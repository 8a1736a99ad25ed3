"""TOML tables are checked as they are read, and what is wrong with them is said in one sentence."""

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import Table, parse_table, read_table
from tests.refusals import refused


class Wheel(Table):
    spokes: int
    tyre: str = Field(default="", pattern="^[A-Z]*$")
    spare: tuple[int, ...] = ()


class Bicycle(Table):
    frame: str
    gears: int = Field(default=1, gt=0)
    front: Wheel
    rear: Wheel | None = None


WHOLE = 'frame = "steel"\ngears = 21\n[front]\nspokes = 32\n'


def refusal(directory: Path, content: str | bytes) -> str:
    file = directory / "bicycle.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refused(read_table, Bicycle, file)
    assert str(file) in said
    return said


def test_a_table_that_fits_is_read_with_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "bicycle.toml"
    file.write_text(WHOLE, encoding="utf-8")
    assert read_table(Bicycle, file) == Bicycle(frame="steel", gears=21, front=Wheel(spokes=32))


def test_tables_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Wheel(spokes=3).spokes = 4


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        ("gear = 3\n", "'gear': did you mean 'gears'? choose from frame, front, gears, rear"),
        ("bell = true\n", "'bell': choose from frame, front, gears, rear"),
    ],
    ids=["near", "far"],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path, addition: str, said: str) -> None:
    assert refusal(tmp_path, addition + WHOLE).endswith(said)


def test_an_unknown_key_of_an_inner_table_is_compared_with_that_tables_keys(tmp_path: Path) -> None:
    said = "'front.spoke': did you mean 'front.spokes'? choose from front.spare, front.spokes, front.tyre"
    assert refusal(tmp_path, WHOLE + "spoke = 3\n").endswith(said)
    said = "'rear.tire': did you mean 'rear.tyre'? choose from rear.spare, rear.spokes, rear.tyre"
    assert refusal(tmp_path, WHOLE + "[rear]\nspokes = 28\ntire = 'A'\n").endswith(said)


def test_a_value_of_the_wrong_type_is_refused_with_key_and_value(tmp_path: Path) -> None:
    message = refusal(tmp_path, WHOLE.replace("21", "'many'"))
    assert "gears: input should be a valid integer" in message
    assert message.endswith("got 'many'")


def test_a_value_out_of_range_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, WHOLE.replace("21", "0")).endswith("gears: input should be greater than 0, got 0")


def test_what_was_expected_is_quoted_as_it_is(tmp_path: Path) -> None:
    assert "front.tyre: string should match pattern '^[A-Z]*$', got 'x'" in refusal(tmp_path, WHOLE + "tyre = 'x'\n")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, "gears = 3\n[front]\nspokes = 1\n").endswith("frame: field required")
    assert refusal(tmp_path, "frame = 'oak'\n[front]\n").endswith("front.spokes: field required")


@pytest.mark.parametrize(
    "content", ["frame = \n", "frame = 'a'\nframe = 'b'\n", "[front", b"frame = '\xff'\n", b"\x00"], ids=repr
)
def test_what_is_not_toml_is_refused(tmp_path: Path, content: str | bytes) -> None:
    assert "is not a readable TOML file" in refusal(tmp_path, content)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(RequestError, match=f"^{place} is not a readable TOML file"):
            read_table(Bicycle, place)


def test_values_that_come_from_elsewhere_are_blamed_on_their_origin() -> None:
    with pytest.raises(RequestError, match=r"^the command line: gears: .*, got -1$"):
        parse_table(Bicycle, {"frame": "a", "gears": -1, "front": {"spokes": 2}}, "the command line")


@pytest.mark.parametrize(
    "nested",
    [
        "gears = " + 5000 * "[" + 5000 * "]",
        "gears = " + 5000 * "{a = " + "1" + 5000 * "}",
        "gears." + 50_000 * "a." + "a = 1",
        '"fr=ame".' + 50_000 * '"=".' + "a = 1",
        "[gears." + 50_000 * "a." + "a]",
    ],
    ids=lambda text: text[:16],
)
def test_what_is_nested_without_an_end_is_refused_at_once(tmp_path: Path, nested: str) -> None:
    assert "is not a readable TOML file (it is nested too deeply)" in refusal(tmp_path, nested)


def test_a_name_may_have_many_dots(tmp_path: Path) -> None:
    file = tmp_path / "bicycle.toml"
    file.write_text(WHOLE.replace("steel", 900 * "."), encoding="utf-8")
    assert read_table(Bicycle, file).frame == 900 * "."


@pytest.mark.parametrize("written", ["spokes = 1{}", "spokes = 32\nspare = [3, 1{}]"])
def test_numbers_that_nothing_counts_to_are_refused(tmp_path: Path, written: str) -> None:
    content = WHOLE.replace("spokes = 32", written.format("0" * 30))
    assert f"a whole number must be at most {2**53}" in refusal(tmp_path, content)
