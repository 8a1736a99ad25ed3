"""A user's own Python files: imported once, and what fails in them is one sentence."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.plugins import load_plugins

PLUGIN = "import sys\nsys.plugin_runs = getattr(sys, 'plugin_runs', 0) + 1\n"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    vars(sys).pop("plugin_runs", None)


def runs() -> int:
    return int(vars(sys).get("plugin_runs", 0))


def test_a_file_is_imported_once_and_known_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    first = load_plugins([file])
    assert first == load_plugins([Path("mine.py"), file])
    assert [len(digest) for digest in first.values()] == [64]
    assert runs() == 1


def test_two_files_of_one_name_are_refused_unless_they_are_the_same(tmp_path: Path) -> None:
    files = [tmp_path / folder / "mine.py" for folder in "ab"]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(f"{PLUGIN}# {number}\n")
    with pytest.raises(RequestError, match=r"^plugin is given two different files called mine\.py: rename one$"):
        load_plugins(files)
    files[1].write_bytes(files[0].read_bytes())
    assert list(load_plugins(files)) == ["mine.py"]


def test_a_class_of_a_plug_in_finds_its_module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import sys\nassert vars(sys.modules[__name__]) is globals()\n")
    load_plugins([tmp_path / "mine.py"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import no_such_module_anywhere\n", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("raise ValueError('too large\\nand more')\n", "ValueError: too large"),
        ("raise KeyError\n", "KeyError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("def f(:\n", "SyntaxError: invalid syntax"),
    ],
)
def test_a_plug_in_that_fails_is_told_in_one_sentence_and_tried_again(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(content)
    for _ in range(2):
        with pytest.raises(RequestError) as caught:
            load_plugins([file])
        assert str(caught.value) == f"plugin {file} cannot be imported ({said}): correct it"


def test_a_refusal_of_the_plug_in_itself_is_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from robustbench_bcos.core.errors import RequestError\nraise RequestError('mine: choose another')\n"
    )
    with pytest.raises(RequestError, match=r"^mine: choose another$"):
        load_plugins([file])


@pytest.mark.parametrize("name", ["folder.py", "notes.txt"])
def test_what_is_no_python_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "notes.txt").write_text(PLUGIN)
    with pytest.raises(RequestError, match=rf"^plugin {tmp_path}/{name} is not a Python file: give the path"):
        load_plugins([tmp_path / name])
    with pytest.raises(RequestError, match=rf"^plugin {tmp_path}/nowhere.py does not exist: check the path"):
        load_plugins([tmp_path / "nowhere.py"])
    assert runs() == 0
