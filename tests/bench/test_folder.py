"""The run folder: one process at a time, one configuration, and files that are whole or not there."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.bench.cells import make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.folder import Description, Session, open_run, read_description
from robustbench_bcos.bench.identity import ExplainedImages, RunIdentity
from robustbench_bcos.bench.run_files import CONFIGURATION, DATABASE, LOCK, RESULTS
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.version import VERSION
from tests.bench.by_hand import SESSION, identity_of
from tests.refusals import refused

CELL, *MORE = make_cells(make_config({"norm": ("linf",), "eps": ("8/255",), "steps": (20, 50, 100)}), ["net"])
IDENTITY = identity_of(CELL)


def refusal(folder: Path, identity: RunIdentity = IDENTITY) -> str:
    return refused(open_run(folder, identity, SESSION).__enter__)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_every_session_is_added_to_one_identity(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    for number in range(3):
        with open_run(folder, IDENTITY, {**SESSION, "started": str(number)}) as held:
            assert held == folder
    sessions = tuple(Session(**{**SESSION, "started": str(number)}) for number in range(3))
    assert read_description(folder) == Description(IDENTITY, sessions)


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", IDENTITY, SESSION):
        before = content(tmp_path / "run")
        assert "is in use by another process: wait for it, or choose another --out" in refusal(tmp_path / "run")
        assert content(tmp_path / "run") == before
    with open_run(tmp_path / "run", IDENTITY, SESSION):
        pass


@pytest.mark.parametrize("error", [RuntimeError("bug"), RequestError("no"), KeyboardInterrupt()], ids=repr)
def test_a_folder_is_let_go_whatever_happens_in_it(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), open_run(tmp_path, IDENTITY, SESSION):
        raise error
    with open_run(tmp_path, IDENTITY, SESSION):
        assert len(read_description(tmp_path).sessions) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"reading": {"ema": True}}, 'reading is null there and {"ema": true} here'),
        ({"cells": tuple(MORE)}, "other cells"),
    ],
)
def test_another_configuration_is_told_apart_by_what_differs(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with open_run(tmp_path, IDENTITY, SESSION):
        pass
    before = content(tmp_path)
    message = refusal(tmp_path, replace(IDENTITY, **changes))
    assert f"belongs to another configuration ({said}): choose another --out" in message
    assert content(tmp_path) == before


def test_a_run_that_is_overwritten_leaves_nothing_of_itself(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", IDENTITY, SESSION) as folder:
        (folder / DATABASE).write_text("verdicts", encoding="utf-8")
        (folder / "figures").mkdir()
        (folder / "figures/old.png").touch()
        (tmp_path / "elsewhere").mkdir()
        (folder / "link").symlink_to(tmp_path / "elsewhere")
    with open_run(folder, replace(IDENTITY, seed=1), SESSION, overwrite=True):
        assert read_description(folder) == Description(replace(IDENTITY, seed=1), (SESSION,))
        assert set(content(folder)) == {LOCK, CONFIGURATION}
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"thesis.tex": "one"}, "holds other files (thesis.tex) and is not a run"),
        ({CONFIGURATION: '{"name": "another tool\'s"}', "thesis.tex": "one"}, "run.json is damaged"),
    ],
)
def test_only_a_run_is_overwritten(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(RequestError) as caught, open_run(tmp_path, IDENTITY, SESSION, overwrite=True):
        pass
    assert said in str(caught.value)
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in files} == files


def test_the_working_folder_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(tmp_path, IDENTITY, SESSION):
        pass
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path / "code")
    with (
        pytest.raises(RequestError, match="is where you work, and nothing of it is removed: choose another folder"),
        open_run(tmp_path, IDENTITY, SESSION, overwrite=True),
    ):
        pass
    assert read_description(tmp_path).sessions == (SESSION,)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter one", encoding="utf-8")
    assert "holds other files (thesis.tex) and is not a run" in refusal(tmp_path)
    assert content(tmp_path) == {"thesis.tex": b"chapter one"}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", "is a file: choose a folder"),
        ("file/run", "cannot be written (Not a directory)"),
        ("file/run/deeper", "cannot be written (Not a directory)"),
        ("n" * 300, "cannot be written (File name too long)"),
    ],
)
def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    assert said in refusal(tmp_path / place)
    assert content(tmp_path) == {"file": b"precious"}


@pytest.mark.parametrize("left", [[], [LOCK], [LOCK, CONFIGURATION + ".0123456789abcdef.partial"]])
def test_a_run_killed_before_it_had_a_configuration_is_begun_again(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).write_text('{"identity": {"cel' if "partial" in name else "", encoding="utf-8")
    with open_run(tmp_path, IDENTITY, SESSION):
        assert read_description(tmp_path).sessions == (SESSION,)
    assert set(content(tmp_path)) <= {LOCK, CONFIGURATION}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"identity": {}}', '{"identity": {}, "sessions": []}', "\x00\x01", "[" * 99_999]
)
def test_a_damaged_configuration_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIGURATION).write_text(text, encoding="utf-8")
    assert "run.json is damaged" in refusal(tmp_path)
    assert (tmp_path / CONFIGURATION).read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("written", "changed"),
    [('"started": "', '"started": "2'), ('"images": ', '"images": 1'), ('"digest": "', '"digest": "0')],
)
def test_a_configuration_that_was_changed_is_refused_and_left_alone(written: str, changed: str, tmp_path: Path) -> None:
    with open_run(tmp_path, IDENTITY, SESSION | {"versions": {"robustbench_bcos": VERSION}}):
        pass
    file = tmp_path / CONFIGURATION
    text = file.read_text(encoding="utf-8")
    # Other bytes for the same content are none.
    file.write_text(json.dumps(json.loads(text)), encoding="utf-8")
    assert read_description(tmp_path).identity == IDENTITY
    file.write_text(text.replace(written, changed, 1), encoding="utf-8")
    said = f"{file} is damaged (it is not as it was written): restore it, or choose another --out"
    assert refusal(tmp_path) == said
    with pytest.raises(RequestError) as caught:
        read_description(tmp_path)
    assert str(caught.value) == said
    assert file.read_text(encoding="utf-8") == text.replace(written, changed, 1)


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with open_run(tmp_path, IDENTITY, SESSION):
        pass
    (tmp_path / "figures").mkdir()
    kept = tmp_path / "my.partial"
    for file in (kept, tmp_path / f"results.csv.{'0f' * 8}.partial", tmp_path / f"figures/a.png.{'f0' * 8}.partial"):
        file.touch()
    with open_run(tmp_path, IDENTITY, SESSION):
        assert list(tmp_path.rglob("*.partial")) == [kept]


@pytest.mark.parametrize(
    "damage",
    [
        *[{"seed": None}, {"slice": "an old name"}, {"cells": [{"model": "net"}]}, {"cells": 3}, {"plugins": [1]}],
        *[{"images": "many"}, {"weights": []}, {"explained": {"method": "auto"}}, {"attack_backend": 1}],
    ],
)
def test_an_identity_of_another_version_is_refused_in_a_sentence(damage: dict[str, Any], tmp_path: Path) -> None:
    identity = {key: value for key, value in (IDENTITY.to_json() | damage).items() if value is not None}
    refuse(tmp_path, identity, [SESSION])


@pytest.mark.parametrize("damage", [{"class_names": None}, {"versions": ["torch"]}, {"device": 1}, {"commit": []}])
def test_a_session_that_is_none_is_refused_in_a_sentence(damage: dict[str, Any], tmp_path: Path) -> None:
    refuse(tmp_path, IDENTITY.to_json(), [SESSION, {**SESSION, **damage}])


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (
            "0.9.1",
            "was written by robustbench_bcos 0.9.1, and this is {VERSION}, or is damaged: read it with 0.9.1, or ",
        ),
        (VERSION, "is damaged (it is not as it was written): restore it, or choose another --out"),
        (None, "read it with 0.2.0, or repeat the run in another folder"),
    ],
)
def test_the_version_that_reads_a_run_is_named(version: str | None, said: str, tmp_path: Path) -> None:
    session = SESSION | {"versions": {} if version is None else {"robustbench_bcos": version}}
    content = {"identity": {"dataset": "digits"}, "sessions": [session]}
    (tmp_path / CONFIGURATION).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        read_description(tmp_path)
    assert said.format(VERSION=VERSION) in str(caught.value)
    if version != VERSION:
        # Neither is it called another request.
        assert said.format(VERSION=VERSION) in refusal(tmp_path)


def refuse(folder: Path, identity: dict[str, Any], sessions: list[Any]) -> None:
    (folder / CONFIGURATION).write_text(json.dumps({"identity": identity, "sessions": sessions}), encoding="utf-8")
    with pytest.raises(
        RequestError,
        match=r"run\.json was written by robustbench_bcos 0\.2\.0 or earlier, and this is .*, or is damaged",
    ):
        read_description(folder)


@pytest.mark.parametrize("left", [None, b""])
def test_a_store_is_not_made_anew_beside_results(tmp_path: Path, left: bytes | None) -> None:
    with open_run(tmp_path, IDENTITY, SESSION):
        (tmp_path / RESULTS).write_text("model\n", encoding="utf-8")
        if left is not None:
            (tmp_path / DATABASE).write_bytes(left)
    before = content(tmp_path)
    assert "has results.csv, and the run.sqlite it was written from is missing or empty: restore" in refusal(tmp_path)
    assert content(tmp_path) == before


def test_no_link_in_a_run_folder_leads_a_run_outside(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", IDENTITY, SESSION):
        pass
    (tmp_path / "precious").write_bytes(b"")
    (tmp_path / "run" / LOCK).unlink()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    assert f"{LOCK} is a link, and nothing is written through links" in refusal(tmp_path / "run")
    assert (tmp_path / "precious").read_bytes() == b""


def test_an_identity_is_what_json_gives_back() -> None:
    explained = ExplainedImages(method="auto", images=(3, 1), pictured=(7,))
    for identity in (IDENTITY, replace(IDENTITY, cells=(CELL, *MORE), explained=explained, reading={"ema": False})):
        assert RunIdentity.from_json(json.loads(json.dumps(identity.to_json()))) == identity


def test_what_is_not_a_run_is_not_read_as_one(tmp_path: Path) -> None:
    (tmp_path / DATABASE).touch()
    with pytest.raises(RequestError, match=r"is not a run: it has no run\.json; give a folder that `run` has written"):
        read_description(tmp_path)


def test_a_first_session_that_found_the_disk_full_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "replace", fail)
        assert "free some space" in refusal(tmp_path / "run")
    with open_run(tmp_path / "run", IDENTITY, SESSION) as folder:
        assert json.loads((folder / CONFIGURATION).read_text(encoding="utf-8"))["sessions"] == [SESSION]
