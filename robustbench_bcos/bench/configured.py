"""A checked configuration from what was given: names as they are known, options that belong together.

Flags override the suite file, the suite file overrides the defaults.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from robustbench_bcos.attacks import NORMS, TARGETED, goal_names
from robustbench_bcos.bench.config import SUITES, RunConfig, Suite
from robustbench_bcos.bench.values import name_of_norm, several
from robustbench_bcos.certificates import CERTIFICATES
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.options import parameters
from robustbench_bcos.core.plugins import load_plugins
from robustbench_bcos.core.registry import as_known, unknown
from robustbench_bcos.core.tables import parse_table

HALF_RANGE = 0.5
"""The change of a pixel that takes black and white to the same grey."""

C = TypeVar("C", bound=RunConfig)


def make_config(flags: Mapping[str, Any], suite: str | None = None) -> RunConfig:
    """:func:`configured` for a run."""
    return configured(RunConfig, flags, suite)


def configured(kind: type[C], flags: Mapping[str, Any], suite: str | None = None) -> C:
    """Defaults, overridden by the suite, overridden by the flags that were given, checked.

    Plug-ins are loaded first, so that whatever they register can be named.

    Args:
        kind: of configuration.
        flags: what was given.
        suite: by name.

    Raises:
        RequestError: a value that cannot be carried out, whatever the data.
    """
    given = {key: value for key, value in flags.items() if not _is_left_out(value)}
    digests = load_plugins(map(Path, several(given.get("plugin", ()))))
    values = _with_names_as_known(kind, given if suite is None else _with_suite(SUITES.load(suite), given))
    if "target" in values:
        values.setdefault("criterion", TARGETED)
    config = parse_table(kind, {**values, "plugin_digests": digests}, "the request")
    _check_options_belong_together(config)
    if kind is RunConfig:
        # In subclasses ``method`` names the methods that are scored, not those that are attacked.
        _check_goals(config)
        _check_certificates(config)
    return config


def check_trained(config: RunConfig, suite: str) -> None:
    """Refuse to attack models that a suite has yet to train, named or matched by a glob.

    Raises:
        RequestError: with the command that makes them.
    """
    trainings = SUITES.load(suite).trainings
    if trainings is None:
        return
    # Cards take as long to import as all of the configuration, and a request for help has no need of them.
    from robustbench_bcos.model_zoo.cards import Zoo

    meant = [name for name in trainings.models if any(fnmatchcase(name, pattern) for pattern in config.model)]
    known = Zoo(config.zoo).entries
    missing = [name for name in meant if name not in known]
    if missing:
        more = ", ..." if len(missing) > 1 else ""
        raise RequestError(
            f"{len(missing)} of the {len(meant)} models of suite {suite} are not there ({missing[0]}{more}): "
            f"`train --suite {suite} --out DIR` makes them, and --zoo DIR finds them; or name others with --model"
        )


def _is_left_out(value: Any) -> bool:  # noqa: ANN401
    return value is None or (isinstance(value, tuple | dict) and not value)


def _with_suite(suite: Suite, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a suite says of a run, overridden by flags.

    Norms given as flags have the radii that the suite's threats give them; radii given as flags are for every norm.

    Raises:
        RequestError: the suite has threats, and none of a norm that is asked for.
    """
    values = suite.model_dump(exclude={"description", "trainings"}, exclude_unset=True)
    if suite.trainings is not None and "weights" not in given:
        values["model"] = suite.trainings.models
    if "threat" in given:
        values = {name: value for name, value in values.items() if name not in ("norm", "eps")}
    elif suite.threat and "eps" in given:
        norms = given.get("norm", tuple(norm for norm, _ in suite.threats))
        del values["threat"]
        values["norm"] = tuple(dict.fromkeys(several(norms)))
    elif suite.threat and "norm" in given:
        norms = [name_of_norm(norm) for norm in several(given["norm"])]
        threats = [f"{norm}:{eps}" for asked in norms for norm, eps in suite.threats if norm == asked]
        for norm in norms:
            if norm not in [known for known, _ in suite.threats]:
                raise RequestError(f"eps is missing: the suite gives norm {norm} no radius")
        return values | {name: value for name, value in given.items() if name != "norm"} | {"threat": tuple(threats)}
    return {**values, **given}


def _with_names_as_known(kind: type[RunConfig], values: dict[str, Any]) -> dict[str, Any]:
    """The values with names as they are registered; what is unknown is refused with what was probably meant."""
    found = dict(values)
    for name, parameter in parameters(kind).items():
        if parameter.several and len(several(values.get(name, "given"))) == 0:
            raise RequestError(f"{name} is empty: give it a value, or leave it out for its default")
        known = parameter.names
        if known and parameter.option.closed and name in values:
            spelled = tuple(as_known(str(value), known) for value in several(values[name]))
            for value in spelled:
                if value not in known:
                    raise unknown(name, value, known)
            found[name] = spelled if parameter.several else spelled[0]
    return found


def _check_goals(config: RunConfig) -> None:
    for name in config.of_goals:
        if name in config.model_fields_set and not config.map_goals:
            raise RequestError(
                f"{name} says how explanations are attacked: give a goal such as {goal_names()[1]}, or leave it out"
            )
    if config.map_goals and config.explained == 0:
        raise RequestError(f"goal {config.goal[-1]} attacks explanations, and explained 0 leaves none: leave it out")
    if config.map_goals and config.space == "encoded":
        raise RequestError("explanations of images are attacked, and space encoded has none: leave out space, or goal")


def _check_certificates(config: RunConfig) -> None:
    for name in config.of_certificates:
        if name in config.model_fields_set and not config.certify:
            raise RequestError(f"{name} says how is certified: give certify, such as {next(iter(CERTIFICATES))}")
    if config.certify and config.space == "encoded":
        raise RequestError("certify adds noise to images, and space encoded has none: leave out either")
    fewest = int(math.log(config.certify_alpha, 0.5)) + 1
    if config.certify_draws < fewest:
        raise RequestError(
            f"certify_draws {config.certify_draws} cannot certify anything at certify_alpha {config.certify_alpha:g}: "
            f"give at least {fewest}, and some hundreds for radii of use"
        )


def _check_shared_radii(config: RunConfig) -> None:
    """Refuse a radius that was meant for one of several norms, and is no attack at all in another."""
    if len(config.norm) < 2:
        return
    for norm, eps in product(config.norm, config.eps):
        # Beyond the whole range, the sentence about the radius alone says more.
        if NORMS[norm].in_levels and HALF_RANGE <= eps.value <= 1:
            raise RequestError(
                f"eps {eps} is meant for each of {', '.join(config.norm)}, and within {norm} {eps} every image can be "
                "turned into the same grey: give each norm its own with threat, such as l2:0.5,linf:8/255"
            )


def _check_options_belong_together(config: RunConfig) -> None:
    if config.threat and (config.norm or config.eps):
        raise RequestError("threat stands in place of norm and eps: leave out either")
    _check_shared_radii(config)
    described = {"architecture": config.architecture, "argument": config.argument, "ema": config.ema}
    for name, value in described.items():
        if value and config.weights is None:
            raise RequestError(f"{name} describes weights: give them too, or leave it out")
    if config.weights is None and config.encoding is not None and not any(":" in model for model in config.model):
        raise RequestError(
            "encoding describes weights, or models without a card such as my_package.nets:make: give one, or leave it "
            "out"
        )
    if config.eot > 1 and config.compile:
        raise RequestError("eot seeds what a model draws, and a compiled one draws by itself: leave out compile")
    if config.save_adversarials and config.space == "encoded":
        raise RequestError(
            "adversarial images cannot be saved of space encoded, where what is attacked is no image: leave out space, "
            "or save_adversarials (return_adversarials)"
        )
    if "figure_format" in config.model_fields_set and not config.figures:
        raise RequestError(
            "figure_format says how figures are written, and there are none without figures: leave out one of the two"
        )
    if (config.criterion == TARGETED) != (config.target is not None):
        raise RequestError(
            f"criterion {TARGETED} and target belong together: give both, such as target=least_likely, or none"
        )
