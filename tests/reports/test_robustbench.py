"""RobustBench's model files: its fields, its strings, and nothing in them that AutoAttack did not say."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.reports.robustbench import export_robustbench
from tests.model_zoo.test_cards import write_card
from tests.reports.handmade import record, run_of, table

ALWAYS = {
    "link",
    "name",
    "authors",
    "additional_data",
    "number_forward_passes",
    "dataset",
    "venue",
    "architecture",
    "eps",
    "clean_acc",
    "reported",
}
"""In every one of RobustBench's 236 files."""

SOMETIMES = {"autoattack_acc", "unreliable", "footnote", "external"}
"""In those of L2 and Linf; fields of corruptions have no counterpart here."""

MADRY = {"architecture": "cifar_resnet50", "dataset": "cifar10", "attack": "autoattack"}


def export(*rows: dict[str, Any], folder: Path, **identity: Any) -> tuple[list[Path], list[str]]:
    run = run_of(table(*rows))
    run = dataclasses.replace(run, identity=dataclasses.replace(run.identity, **identity))
    return export_robustbench(run, folder, Zoo())


def content(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert ALWAYS | {"autoattack_acc"} <= found.keys() <= ALWAYS | SOMETIMES
    return found


def test_a_published_model_is_written_as_robustbench_has_it(tmp_path: Path) -> None:
    files, notes = export(record("madry-resnet50-l2-0.5", 138, clean=182, **MADRY), folder=tmp_path)
    assert files == [tmp_path / "cifar10/L2/madry-resnet50-l2-0.5.json"]
    assert notes == []
    # model_info/cifar10/L2/Engstrom2019Robustness.json, but for the architecture's name, measurements and footnote.
    assert content(files[0]) == {
        "link": "https://github.com/MadryLab/robustness",
        "name": "Robustness library",
        "authors": "Logan Engstrom, Andrew Ilyas, Hadi Salman, Shibani Santurkar, Dimitris Tsipras",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "GitHub, Sep 2019",
        "architecture": "cifar_resnet50",
        "eps": "0.5",
        "clean_acc": "91.0",
        "reported": "70.11",
        "autoattack_acc": "69.0",
        "unreliable": False,
        "footnote": (
            "Measured with robustbench_bcos 0.2.0 on 200 images of cifar10 (subset 0123456789ab), weights abababababab."
        ),
    }


def test_epsilons_stand_as_they_were_written_and_are_compared_by_value(tmp_path: Path) -> None:
    linf = {**MADRY, "norm": "linf", "epsilon": 16 / 510}
    files, _ = export(record("madry-resnet50-linf-8", 7, **linf, eps="16/510"), folder=tmp_path)
    assert files == [tmp_path / "cifar10/Linf/madry-resnet50-linf-8.json"]
    found = content(files[0])
    assert (found["eps"], found["reported"]) == ("16/510", "53.29")
    assert (found["autoattack_acc"], found["venue"]) == ("3.5", "GitHub, Oct 2019")


@pytest.mark.parametrize(
    ("robust", "clean", "autoattack_acc", "clean_acc"),
    [(0, 200, "0.0", "100.0"), (1, 199, "0.5", "99.5"), (67, 123, "33.5", "61.5")],
)
def test_numbers_are_strings_in_percent(
    tmp_path: Path, robust: int, clean: int, autoattack_acc: str, clean_acc: str
) -> None:
    files, _ = export(record("own", robust, clean=clean, attack="autoattack"), folder=tmp_path)
    found = content(files[0])
    assert (found["autoattack_acc"], found["clean_acc"]) == (autoattack_acc, clean_acc)


def test_what_is_not_known_of_a_model_is_missing_as_it_is_in_robustbench(tmp_path: Path) -> None:
    files, _ = export(record("my_nets:make", 7, attack="autoattack"), folder=tmp_path)
    assert files == [tmp_path / "digits/L2/my_nets-make.json"]
    found = content(files[0])
    missing = {key: found[key] for key in ("link", "authors", "venue", "reported", "additional_data")}
    assert missing == {"link": "", "authors": "", "venue": "N/A", "reported": "", "additional_data": None}
    assert found["name"] == "my_nets:make"


def test_facts_of_a_card_are_not_given_to_another_model_of_its_name(tmp_path: Path) -> None:
    rows = [
        record("madry-resnet50-natural", 7, **{**MADRY, "architecture": "resnet20"}),
        record("official-bcos-resnet18", 7, **{**MADRY, "architecture": "bcos_resnet18"}),
        record("official-bcos-resnet34", 7, **MADRY | {"architecture": "bcos_resnet34"}, weights_sha256="a63425a03e00"),
    ]
    files, _ = export(*rows, folder=tmp_path)
    assert [content(file)["venue"] for file in files] == ["N/A", "N/A", "TPAMI 2024"]


def test_a_users_card_gives_its_facts(tmp_path: Path) -> None:
    paper = {
        "title": "Mine",
        "authors": "A, B",
        "venue": "V 2026",
        "link": "https://example.org",
        "additional_data": True,
    }
    sha256 = "ab" * 32
    write_card(
        tmp_path / "zoo",
        architecture="resnet8",
        paper=paper,
        published={"robust": {"l2 1/2": 12.5}},
        weights={"file": "x", "sha256": sha256},
    )
    run = run_of(table(record("mine", 7, attack="autoattack")))
    files, _ = export_robustbench(run, tmp_path / "out", Zoo([tmp_path / "zoo"]))
    found = content(files[0])
    assert {key: found[key] for key in ("name", "authors", "venue", "link", "additional_data", "reported")} == {
        "name": "Mine",
        **{key: paper[key] for key in ("authors", "venue", "link", "additional_data")},
        "reported": "12.5",
    }


@pytest.mark.parametrize(
    ("trust", "worst", "expected"),
    [
        ("unchecked", 100, {}),
        ("sound", 100, {"unreliable": False}),
        ("suspect", 90, {"unreliable": True, "external": "45.0"}),
        ("sound", 99, {"unreliable": False, "external": "49.5"}),
    ],
)
def test_flags_are_there_where_they_mean_something(
    tmp_path: Path, trust: str, worst: int, expected: dict[str, Any]
) -> None:
    changes = {"trust": trust, "worst_correct": worst, "robust_accuracy_worst": worst / 200}
    files, _ = export(record("own", 100, attack="autoattack", **changes), folder=tmp_path)
    found = content(files[0])
    assert {key: value for key, value in found.items() if key in ("unreliable", "external")} == expected
    assert found["autoattack_acc"] == "50.0"


@pytest.mark.parametrize(
    ("trust", "reasons", "said"),
    [
        ("suspect", "noise", "Suspect, not to be quoted (noise)."),
        ("unchecked", "", "Unchecked, no evidence was gathered."),
        ("sound", "transfer not done", ""),
    ],
)
def test_a_footnote_says_what_a_mark_would(tmp_path: Path, trust: str, reasons: str, said: str) -> None:
    files, notes = export(record("own", 100, attack="autoattack", trust=trust, reasons=reasons), folder=tmp_path)
    footnote = content(files[0])["footnote"]
    assert footnote.endswith(said or f"weights {'ab' * 6}.")
    assert ("quoted" in footnote, "Unchecked" in footnote) == (trust == "suspect", trust == "unchecked")
    assert notes == (["Suspect (?): own (noise); see docs/evidence.md."] if trust == "suspect" else [])


def test_each_model_and_cell_has_a_file(tmp_path: Path) -> None:
    rows = [
        record(model, 7, attack="autoattack", norm=norm, eps=eps, epsilon=value)
        for model in ("one", "two")
        for norm, eps, value in [("linf", "4/255", 4 / 255), ("linf", "8/255", 8 / 255), ("l2", "0.5", 0.5)]
    ]
    files, _ = export(*rows, folder=tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        f"digits/{name}.json"
        for model in ("one", "two")
        for name in (f"Linf/{model}_4-255", f"Linf/{model}_8-255", f"L2/{model}")
    ]
    assert len({*files}) == len(files) == len([*tmp_path.rglob("*.json")])


def test_names_that_a_file_cannot_tell_apart_have_files_of_their_own(tmp_path: Path) -> None:
    rows = [record(model, 7, attack="autoattack") for model in ("a/b", "a:b", "A:b", "c", "...")]
    files, _ = export(*rows, folder=tmp_path)
    assert [content(file)["name"] for file in files] == ["a/b", "a:b", "A:b", "c", "..."]
    assert len({file.name.casefold() for file in files}) == 5
    assert files[3].name == "c.json"
    assert export(*rows, folder=tmp_path)[0] == files


def test_names_stay_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    row = record("../../up:net", 7, attack="autoattack", dataset="folder:../x")
    files, _ = export(row, folder=folder)
    assert files == [folder / "folder-..-x/L2/up-net.json"]


def test_other_attacks_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    rows = [
        record("own", 100),
        record("own", 90, attack="apgd"),
        record("own", 80, attack="autoattack"),
        record("own", 70, attack="autoattack", space="encoded"),
    ]
    files, notes = export(*rows, folder=tmp_path)
    assert [content(file)["autoattack_acc"] for file in files] == ["40.0"]
    assert notes == [
        "1 row is of other attacks (pgd) and left out.",
        "1 row is of other attacks (apgd) and left out.",
        "1 row is of attacks on the encoding and left out: RobustBench's threats are to images.",
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (record("own", 7), "1 row is of other attacks (pgd) and left out."),
        (record("own", 7, attack="autoattack", norm="l1"), "1 row is of norm l1 and left out"),
        (record("own", 7, attack="autoattack", criterion="targeted:3"), "1 row is of criterion targeted:3 and left"),
        (
            record("own", 7, attack="autoattack", reasons="noise; autoattack without fab"),
            "autoattack without fab and left",
        ),
    ],
    ids=["attack", "norm", "criterion", "fab"],
)
def test_a_run_without_autoattack_is_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        export(row, folder=tmp_path)
    assert said in str(caught.value)
    assert str(caught.value).endswith("run with --attack autoattack")
    assert not list(tmp_path.iterdir())
