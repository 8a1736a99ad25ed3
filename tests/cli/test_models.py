"""``models`` and ``suites``: what there is to ask for."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import config
from rich.console import Console

from robustbench_bcos.bench.config import SUITES
from robustbench_bcos.model_zoo.cards import Card, Zoo
from tests.bench.tiny_zoo import NAMES
from tests.cli.command_line import refusal, succeed


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Typer hands over a context that is no instance of the class it documents, at which run-time checks would balk."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def test_every_card_is_listed_by_name_with_what_it_is(tiny_zoo: Path) -> None:
    out = succeed("models", "list", "--zoo", tiny_zoo)
    assert succeed("models", "--zoo", tiny_zoo) == out
    lines = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert list(lines) == sorted({*Zoo().entries, *NAMES})
    assert all(word in lines["tiny-bcos"] for word in ("bcos", "bcos_resnet8", "natural", "digits"))
    assert "adversarial l2 " in lines["digits-adv-l2"]
    card = Zoo()["digits-natural"].card
    assert card.clean_accuracy is not None
    assert f"{100 * card.clean_accuracy.correct / card.clean_accuracy.total:.1f}" in lines["digits-natural"]
    assert "%" not in lines["digits-natural"]


def test_the_zoo_says_whose_weights_are_here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTBENCH_BCOS_CACHE", str(here / "cache"))
    (here / "cache/weights/madry-resnet50-l2-0.5").mkdir(parents=True)
    (here / "cache/weights/madry-resnet50-l2-0.5/cifar_l2_0_5.pt").touch()
    out = succeed("models")
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert rows["madry-resnet50-l2-0.5"].endswith("│ adversarial l2 0.5     │ cifar10     │ 90.8*   │ here    │")
    assert rows["official-bcos-resnet50"].endswith("│ natural                │ imagenet    │ 75.9*   │ to fetch│")
    assert rows["digits-natural"].endswith("│ natural                │ digits      │ 99.7    │ here    │")
    assert out.endswith("`fetch NAME` gets weights; * as published.\n")


def test_in_a_narrow_terminal_names_are_whole_and_lines_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustbench_bcos.cli.models.results", Console(width=80, highlight=False))
    lines = succeed("models").splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split("│")[1].strip() for line in lines if line.startswith("│")} >= Zoo().entries.keys()
    assert any("natural" in line and "to fetch" in line for line in lines)


def test_a_card_is_shown_as_the_toml_it_was_read_from(tiny_zoo: Path) -> None:
    for name in ("tiny-bcos", "digits-natural", "madry-resnet50-linf-8", "official-bcos-resnet50"):
        shown = Card.model_validate(tomllib.loads(succeed("models", "show", name, "--zoo", tiny_zoo)))
        assert shown == Zoo([tiny_zoo])[name].card


def test_what_is_not_in_the_zoo_is_helped(tiny_zoo: Path) -> None:
    said = refusal("models", "show", "tiny-bcoss", "--zoo", tiny_zoo)
    assert said.startswith("unknown model 'tiny-bcoss': did you mean 'tiny-bcos'? choose from ")
    assert "--zoo nothere is not a folder" in refusal("models", "--zoo", "nothere")


def test_every_suite_is_listed_with_what_it_is_for() -> None:
    out = succeed("suites")
    assert all(name in out for name in SUITES.names())
    assert "linf:8/255, linf:16/255" in out
    assert "20, 100" in out
