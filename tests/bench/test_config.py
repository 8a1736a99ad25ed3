"""What is asked for: flags over suite over defaults, and every name and number checked without data or models."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.cells import make_threats
from robustbench_bcos.bench.config import SUITES, RunConfig
from robustbench_bcos.bench.configured import check_trained, make_config
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.options import parameters
from robustbench_bcos.core.quantities import Quantity
from tests.refusals import refused

SUITE = 'description = "mine"\nnorm = ["linf"]\neps = ["8/255", "16/255"]\nsteps = [20, 100]\nlimit = 7\n'


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return written(tmp_path, SUITE)


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def texts(config: RunConfig) -> list[str]:
    return [eps.text for eps in config.eps]


def refusal(flags: dict[str, Any], suite: Path | None = None) -> str:
    return refused(make_config, flags, None if suite is None else str(suite))


# Precedence


def test_without_flags_the_defaults_hold() -> None:
    config = make_config({})
    assert config == RunConfig()
    assert (config.dataset, threats(config), config.steps) == ("digits", [("l2", "0.5")], (20,))
    assert (config.loss, config.select, config.start, config.space) == (("auto",), "first_success", "image", "image")
    assert (config.criterion, config.target, config.option, config.plugin) == ("misclassified", None, {}, ())
    assert (config.restarts, config.step_size, config.limit, config.seed) == ((1,), None, None, 0)


def test_a_suite_overrides_the_defaults_and_flags_override_the_suite(suite: Path) -> None:
    config = make_config({"eps": ("4/255",), "limit": 3, "seed": 5}, str(suite))
    assert (texts(config), config.limit, config.seed) == (["4/255"], 3, 5)
    assert (config.norm, config.steps) == (("linf",), (20, 100))
    assert (config.loss, config.restarts) == (("auto",), (1,))
    assert make_config({}, str(suite)).limit == 7


def test_flags_that_were_not_given_override_nothing(suite: Path) -> None:
    absent: dict[str, Any] = {"norm": (), "eps": (), "limit": None, "argument": {}, "zoo": (), "device": None}
    assert make_config(absent, str(suite)) == make_config({}, str(suite))
    assert make_config(absent) == RunConfig()


def test_a_seed_of_zero_is_a_flag_that_was_given() -> None:
    assert make_config({"seed": 0, "limit": 1}).seed == 0
    assert "limit" in refusal({"limit": 0})


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        make_config({}).seed = 1


@pytest.mark.parametrize("name", SUITES.names())
def test_every_packaged_suite_makes_a_configuration(name: str) -> None:
    suite = SUITES.load(name)
    assert suite.description
    config = make_config({}, name)
    assert (config.threats, config.steps) == (suite.threats, suite.steps)


def test_a_suite_may_say_whatever_belongs_to_an_attack_and_nothing_else(tmp_path: Path) -> None:
    config = make_config({}, str(written(tmp_path, SUITE + 'select = "last"\nattack = ["pgd", "noise"]\n')))
    assert (config.select, config.attack) == ("last", ("pgd", "noise"))
    assert "unknown key of" in refusal({}, written(tmp_path, SUITE + 'plugin = ["mine.py"]\n'))


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ({}, 50),
        ({"figures": False}, 0),
        ({"explained": 7}, 7),
        ({"explained": 7, "figures": False}, 7),
        ({"explained": 0}, 0),
        ({"images": (3,)}, 50),
        ({"images": (3,), "figures": False}, 0),
    ],
)
def test_fifty_images_are_explained_where_there_are_figures_or_as_many_as_are_asked_for(
    flags: dict[str, Any], count: int
) -> None:
    assert make_config(flags).explanations == count


# Threats

TRAINING = """
description = "mine"
threat = ["l2:0.5", "linf:0.1"]
steps = [2]
explained = 3
[trainings]
recipe = "digits-natural"
seeds = [0, 1]
[trainings.variations]
"a" = {}
"""


@pytest.fixture
def training(tmp_path: Path) -> str:
    (tmp_path / "training.toml").write_text(TRAINING, encoding="utf-8")
    return str(tmp_path / "training.toml")


def threats(config: RunConfig) -> list[tuple[str, str]]:
    return [(threat.norm, threat.text) for threat in make_threats(config)]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, [("l2", "0.5"), ("linf", "0.1")]),
        ({"norm": ("linf",)}, [("linf", "0.1")]),
        ({"norm": ("linf", "l2")}, [("linf", "0.1"), ("l2", "0.5")]),
        ({"eps": ("0.25",)}, [("l2", "0.25"), ("linf", "0.25")]),
        ({"norm": ("l2",), "eps": ("0.25", "1")}, [("l2", "0.25"), ("l2", "1")]),
        ({"norm": "L2"}, [("l2", "0.5")]),
        ({"threat": "linf:2/255"}, [("linf", "2/255")]),
    ],
)
def test_a_suite_may_give_norms_their_radii_and_flags_choose_among_its_threats(
    flags: dict[str, Any], expected: list[tuple[str, str]], training: str
) -> None:
    assert threats(make_config(flags, training)) == expected


def test_several_radii_of_one_norm_stay_together(tmp_path: Path) -> None:
    text = TRAINING.replace('"l2:0.5"', '"l2:0.5", "l2:1"')
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    for flags, expected in (({}, 3), ({"norm": ("l2",)}, 2)):
        found = threats(make_config(flags, str(tmp_path / "mine.toml")))
        assert found[:2] == [("l2", "0.5"), ("l2", "1")]
        assert len(found) == expected


def test_norms_and_radii_are_combined_and_threats_are_not() -> None:
    assert len(threats(make_config({"norm": ("l2", "linf"), "eps": ("0.25", "0.1")}))) == 4
    both = ("l2:0.5", "Linf:8/255", "linf 8/255", Threat.of("l1", "12"))
    assert threats(make_config({"threat": both})) == [("l2", "0.5"), ("linf", "8/255"), ("l1", "12")]


@pytest.mark.parametrize("written", ["linf", "Linf", "L_inf", "LINF", "l-inf", "inf", float("inf")])
def test_a_norm_may_be_written_as_the_field_does(written: Any) -> None:
    assert threats(make_config({"norm": written, "eps": 0.1})) == [("linf", "0.1")]
    assert Threat.of(str(written), 0.1) == Threat.of("linf", 0.1)
    assert threats(make_config({"norm": [2, "L1"], "eps": "3"})) == [("l2", "3"), ("l1", "3")]


def test_names_may_be_written_as_papers_do() -> None:
    config = make_config({"attack": ("PGD", "AutoAttack", "APGD-targeted"), "loss": "CE", "select": "best-loss"})
    assert config.attack == ("pgd", "autoattack", "apgd_targeted")
    assert (config.loss, config.select) == (("ce",), "best_loss")


def test_digits_alone_have_radii_that_hold_unless_others_are_asked_for() -> None:
    assert threats(make_config({"norm": "linf"})) == [("linf", "0.1")]
    assert threats(make_config({"norm": ("linf", "l2")})) == [("linf", "0.1"), ("l2", "0.5")]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"dataset": "cifar10", "norm": "linf"}, "radius of norm linf in .*, such as 8/255, which cifar10 usually has"),
        ({"dataset": "imagenet"}, "eps is missing: give the radius of norm l2 in units of the pixel range, 0.5 or"),
        ({"dataset": "folder:here", "norm": "linf"}, "eps is missing"),
        ({"norm": "l1"}, "eps is missing: give the radius of norm l1"),
        ({"dataset": "digit"}, "unknown dataset 'digit'"),
    ],
)
def test_no_other_data_has_a_radius_that_goes_without_saying(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        _ = make_config(flags).threats


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"threat": "linf"}, "threat 'linf' must be NORM:EPS: linf:8/255, say"),
        ({"threat": ":8"}, "threat ':8' must be NORM:EPS"),
        ({"threat": "l2:much"}, "eps 'much' is not a number"),
        ({"threat": "l7:1"}, "unknown norm 'l7'"),
        ({"threat": "l2:1", "eps": 1}, "threat stands in place of norm and eps"),
        ({"threat": "l2:1", "norm": "l2"}, "threat stands in place of norm and eps"),
    ],
)
def test_threats_that_make_no_sense_are_refused(flags: dict[str, Any], said: str) -> None:
    assert said in refusal(flags)


def test_a_norm_that_a_suite_has_no_threat_of_needs_a_radius(training: str) -> None:
    with pytest.raises(RequestError, match="eps is missing: the suite gives norm l1 no radius"):
        make_config({"norm": "l1"}, training)


def test_a_suite_that_trains_is_for_its_models_unless_others_are_named(training: str) -> None:
    config = make_config({}, training)
    assert config.model == ("a-seed0", "a-seed1")
    assert config.explanations == 3
    assert make_config({"model": ("digits-natural",)}, training).model == ("digits-natural",)
    assert make_config({"weights": Path("w.pt")}, training).model == ()


def test_models_that_a_suite_has_yet_to_train_are_missed_with_the_command_that_makes_them(training: str) -> None:
    with pytest.raises(
        RequestError, match=r"^2 of the 2 models of suite .* \(a-seed0, \.\.\.\): `train --suite .* --out"
    ):
        check_trained(make_config({}, training), training)
    for pattern, missing in (("*-seed1", 1), ("a-seed0", 1), ("a-*", 2)):
        with pytest.raises(RequestError, match=rf"^{missing} of the {missing} models of suite"):
            check_trained(make_config({"model": ("digits-natural", pattern)}, training), training)
    check_trained(make_config({"model": ("digits-natural",)}, training), training)
    check_trained(make_config({}, "smoke"), "smoke")


# Further attacks and evidence


def test_without_flags_numbers_are_checked_quickly_and_no_distances_are_measured() -> None:
    config = make_config({})
    assert (config.evidence, config.distances, config.queries, config.targets) == ("quick", False, 5000, 9)
    assert (config.attack, config.loss) == (("pgd",), ("auto",))


# Names

CHOICES = {name: one.names for name, one in parameters(RunConfig).items() if one.names and one.option.closed}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in CHOICES.items() for name in names])
def test_every_choice_is_accepted_and_a_slip_of_the_pen_is_helped(kind: str, name: str) -> None:
    several = isinstance(getattr(RunConfig(), kind), tuple)
    besides = {"target": 3} if name == "targeted" else {"goal": "explanation"} if kind == "method" else {}
    assert getattr(make_config({kind: name, **besides}), kind) == ((name,) if several else name)
    slip = name[:-1] + "0"
    said = refusal({kind: (name, slip) if several else slip})
    assert said.startswith(f"unknown {kind} {slip!r}: did you mean ")
    assert all(choice in said for choice in CHOICES[kind])


@pytest.mark.parametrize("kind", CHOICES)
def test_a_value_that_is_no_name_is_refused_too(kind: str) -> None:
    assert refusal({kind: 5}).startswith(f"unknown {kind} '5': choose from ")


PLUGIN = """
from robustbench_bcos.attacks import LOSSES, NORMS

NORMS.register("l7", object())
LOSSES.register("huge", lambda logits, labels: 1e9 * logits.sum(dim=1))
"""


def test_what_a_plug_in_registers_can_be_named_and_the_plug_in_is_known_by_its_digest(
    tmp_path: Path, registries: None
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN, encoding="utf-8")
    assert "unknown norm 'l7'" in refusal({"norm": "l7"})
    config = make_config({"norm": "l7", "loss": "huge", "plugin": file})
    assert (config.norm, config.loss, config.plugin) == (("l7",), ("huge",), (file,))
    assert config.plugin_digests == {"mine.py": sha256(file.read_bytes()).hexdigest()}
    assert refusal({"plugin": tmp_path / "none.py"}).startswith("plugin ")


def test_an_unknown_suite_is_helped_and_a_missing_file_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown suite 'tables': did you mean 'tables-l2'"):
        SUITES.load("tables")
    with pytest.raises(RequestError, match=r"nothere\.toml is not a readable TOML file"):
        SUITES.load(str(tmp_path / "nothere.toml"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("limit", "limmit"), "did you mean 'limit'"),
        (('["linf"]', '["lnf"]'), "unknown norm 'lnf'"),
        (('description = "mine"', ""), "mine.toml: description: field required"),
        (('"8/255"', '"8/-255"'), "eps '8/-255' is not a number"),
        (("steps = [20", "steps = [0"), "mine.toml: steps.0: input should be greater than or equal to 1, got 0"),
        (("[20, 100]", '["many"]'), "mine.toml: steps"),
        (("description", "["), "not a readable TOML file"),
    ],
)
def test_a_suite_that_does_not_fit_is_refused(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    assert said in refusal({}, written(tmp_path, SUITE.replace(*change)))


# Numbers


@pytest.mark.parametrize(
    ("eps", "written"),
    [
        (0.25, ["0.25"]),
        (1, ["1"]),
        ("8/255", ["8/255"]),
        (Quantity.of("8/255"), ["8/255"]),
        ([0.5, "1/4"], ["0.5", "1/4"]),
        (np.array([0.25, 0.5]), ["0.25", "0.5"]),
        (np.float64(0.5), ["0.5"]),
    ],
    ids=str,
)
def test_quantities_are_read_once_and_written_as_they_were_given(eps: Any, written: list[str]) -> None:
    config = make_config({"eps": eps, "step_size": 0.05})
    assert texts(config) == written
    assert config.step_size == Quantity("0.05", 0.05)
    said = config.model_dump(mode="json")
    assert (said["eps"], said["step_size"]) == (written, "0.05")
    assert RunConfig.model_validate(json.loads(json.dumps(said))) == config


def test_a_target_may_be_a_number_or_a_name() -> None:
    assert make_config({"criterion": "targeted", "target": 3}).target == "3"
    assert make_config({"criterion": "targeted", "target": "least_likely"}).target == "least_likely"


def test_images_to_picture_are_named_once() -> None:
    assert make_config({"images": ["3", 5, 3]}).images == (3, 5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"eps": ("-1",)}, "eps '-1' must be finite and not negative"),
        ({"eps": ("0.5", "nan")}, "eps 'nan' must be finite and not negative"),
        ({"eps": ("inf",)}, "eps 'inf' must be finite"),
        ({"eps": ("abc",)}, "eps 'abc' is not a number"),
        ({"eps": ("8/0",)}, "eps '8/0' is not a number"),
        ({"eps": ("8//255",)}, "eps '8//255' is not a number"),
        ({"steps": (20, 0)}, "steps.1: input should be greater than or equal to 1, got 0"),
        ({"steps": ("x",)}, "steps.0"),
        ({"steps": (2.5,)}, "steps.0"),
        ({"restarts": 0}, "restarts.0: input should be greater than or equal to 1, got 0"),
        ({"queries": 0}, "queries: input should be greater than or equal to 1, got 0"),
        ({"eps": []}, "eps is empty: give it a value"),
        ({"queries": "many"}, "queries: input should be a valid integer"),
        ({"targets": -3}, "targets: input should be greater than or equal to 1, got -3"),
        ({"distances": "some"}, "distances: input should be a valid boolean"),
        ({"step_size": "0"}, "step_size 0 must be positive: leave it out for 2.5 * eps / steps"),
        ({"step_size": -0.1}, "step_size '-0.1' must be finite and not negative"),
        ({"step_size": "x"}, "step_size 'x' is not a number"),
        ({"limit": 0}, "limit"),
        ({"seed": -1}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"threads": 0}, "threads"),
        ({"explained": -1}, "explained: input should be greater than or equal to 0, got -1"),
        ({"explained": "all"}, "explained: input should be a valid integer"),
        ({"images": (3, -2)}, "images -2 is not the index of an image: give numbers from 0"),
        ({"images": ("x",)}, "images 'x' is not the index of an image"),
        ({"colour": "red"}, "unknown key of the request 'colour'"),
    ],
)
def test_a_value_that_cannot_be_carried_out_is_named(flags: dict[str, Any], said: str) -> None:
    assert said in refusal(flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"architecture": "resnet8"}, "architecture describes weights: give them too, or leave it out"),
        ({"ema": True}, "ema describes weights: give them too, or leave it out"),
        ({"encoding": "none"}, "encoding describes weights, or models without a card such as"),
        ({"encoding": "none", "model": "digits-natural"}, "encoding describes weights, or models without a card"),
        ({"argument": {"b": 1.5}}, "argument describes weights: give them too, or leave it out"),
        ({"argument": {"b": 1.5}, "model": ("my:net",)}, "argument describes weights: give them too"),
        (
            {"figures": False, "figure_format": ("pdf",)},
            "figure_format says how figures are written, and there are none",
        ),
        ({"figure_format": ("pfd",)}, "figure_format 'pfd'"),
        (
            {"target": "least_likely", "criterion": "misclassified"},
            "criterion targeted and target belong together: give both",
        ),
        ({"criterion": "targeted"}, "criterion targeted and target belong together: give both"),
    ],
)
def test_options_that_would_say_nothing_alone_are_refused(flags: dict[str, Any], said: str) -> None:
    assert said in refusal(flags)


@pytest.mark.parametrize("norms", [("l2", "linf"), ("linf", "l1"), ("l1", "l2", "linf")])
def test_a_radius_that_is_meant_for_one_norm_is_not_given_to_another_in_silence(norms: tuple[str, ...]) -> None:
    with pytest.raises(
        RequestError, match=r"^eps 0\.5 is meant for each of .*: give each norm its own with threat, such"
    ):
        make_config({"norm": norms, "eps": ("0.1", "0.5")})
    make_config({"norm": norms, "eps": ("0.1", "64/255")})
    # Who says linf 0.5 means it.
    make_config({"norm": ("linf",), "eps": ("0.5",)})
    make_config({"threat": ("l2:0.5", "linf:0.5")})
