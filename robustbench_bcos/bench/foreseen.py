"""Mistakes that need neither torch nor an image to be told. Importing this imports no torch, which takes seconds."""

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from robustbench_bcos.attacks import ATTACKS, NORMS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.bench.cells import make_attacks
from robustbench_bcos.bench.config import EACH, RunConfig
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.trackers import TRACKERS
from robustbench_bcos.core.devices import check_device
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.packages import find_package
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.data.class_order import read_class_order
from robustbench_bcos.data.opening import (
    check_any_size,
    check_images,
    class_names,
    image_shape,
    locate_dataset,
    models_of,
)
from robustbench_bcos.model_zoo import CLIP, LIBRARIES, ONNX
from robustbench_bcos.model_zoo.cards import Card, Zoo
from robustbench_bcos.model_zoo.checkpoints.container import container_of
from robustbench_bcos.model_zoo.encoding_spec import EncodingSpec
from robustbench_bcos.model_zoo.foreign import check_foreign
from robustbench_bcos.model_zoo.registered import check_registered

LARGE = 100_000
"""Pixels of a side that no image exceeds: an epsilon that is too large for those is too large for any."""


def check_foreseeable(config: RunConfig, *, attacked: bool = True) -> None:
    """Refuse datasets, models, weights and radii that are not to be had, as the code that needs them would later.

    Args:
        config: what is asked for.
        attacked: whether radii are needed.

    Raises:
        RequestError: one is not.
    """
    locate_dataset(
        config.dataset,
        "test",
        data_dir=config.data_dir,
        download=config.download,
        image_list=config.image_list,
        class_order=None if config.classes is None else read_class_order(config.classes),
    )
    if any(given is not None for given in (config.resize, config.crop, config.interpolation)):
        check_any_size(config.dataset)
    check_images(config.dataset, limit=config.limit, indices=config.images, data_dir=config.data_dir)
    EXECUTORS[config.executor].check(config)
    for tracker in config.log:
        TRACKERS[tracker].check()
    cards = check_models(config)
    if not attacked:
        return
    shape = _shape(config, cards)
    for norm, eps in config.threats:
        check_radius(norm, eps, shape)
    check_attacks(config, list(make_attacks(config)))
    _check_target(config)


def check_models(config: RunConfig) -> list[Card]:
    """The cards of the models that have one; of others it is only seen whether there is a module or file.

    Raises:
        RequestError: there is none, or its weights are not here; or the device or the encoding is none.
    """
    check_device(config.device)
    if config.encoding is not None:
        EncodingSpec.parse(config.encoding)
    zoo, patterns = Zoo(config.zoo), config.model
    if config.weights is not None:
        container_of(config.weights)
        if config.architecture is not None:
            check_architecture(config.architecture, config.argument)
    elif not patterns:
        patterns = tuple(zoo.at_hand(models_of(config.dataset)))
    cards = []
    for pattern in patterns:
        prefix, colon, name = pattern.partition(":")
        if colon:
            if prefix in (*LIBRARIES, ONNX, CLIP):
                check_foreign(prefix, name)
            else:
                _check_module(pattern, prefix)
            continue
        for entry in zoo.matching(pattern):
            entry.check_fetched()
            cards.append(entry.card)
    return cards


def check_radius(norm: str, eps: Quantity, shape: Sequence[int]) -> None:
    """Refuse a ball larger than the pixel box it is cut with.

    Args:
        norm: by name.
        eps: its radius.
        shape: of an image.

    Raises:
        RequestError: with the fraction of 255 that was probably meant.
    """
    geometry = NORMS[norm]
    radius, diameter = eps.value, geometry.diameter(shape)
    if radius > diameter:
        levels = geometry.in_levels and radius <= 255 and radius.is_integer()
        meant = f"did you mean {radius:g}/255? " if levels else ""
        raise RequestError(
            f"eps {eps} for norm {norm} is larger than the whole pixel range, {diameter:g}: {meant}"
            "radii are in units of the pixel range [0, 1]"
        )


def check_attacks(config: RunConfig, attacks: Sequence[AbstractAttack]) -> None:
    """Refuse goals that none of the attacks can follow.

    Raises:
        RequestError: with those that can.
    """
    if config.map_goals and not any(attack.moves_maps for attack in attacks):
        able = ", ".join(name for name in ATTACKS if ATTACKS[name].moves_maps)
        raise RequestError(f"goal {config.goal[-1]} needs an attack that can follow it: choose from {able}")


def check_architecture(architecture: str, arguments: Iterable[str]) -> None:
    """Refuse an architecture that is not registered, or that no library has.

    Raises:
        RequestError: or it takes no such argument.
    """
    prefix, colon, name = architecture.partition(":")
    if colon and prefix in (*LIBRARIES, CLIP):
        check_foreign(prefix, name)
    else:
        check_registered(architecture, arguments)


def _check_target(config: RunConfig) -> None:
    """Refuse a class that the dataset has not, where its classes are known before it is opened."""
    names = class_names(config.dataset)
    if names is None or config.target is None or config.target in (*names, EACH):
        return
    criterion = make_criterion(config.criterion_text)
    criterion.check(len(names))


def _shape(config: RunConfig, cards: Sequence[Card]) -> tuple[int, int, int]:
    """Of what is attacked, as far as it is known; an encoding has a channel more for each of an image's."""
    known = image_shape(config.dataset)
    if known is None and config.crop is not None:
        known = (3, config.crop, config.crop)
    if known is None and cards:
        known = (3, *cards[0].image_size)
    channels, height, width = known or (3, LARGE, LARGE)
    return channels * (2 if config.space == "encoded" else 1), height, width


def _check_module(model: str, name: str) -> None:
    """Whether Python would find the outermost package of ``module:callable``."""
    outermost = name.partition(".")[0]
    if not outermost.isidentifier() or outermost in sys.modules:
        return
    if find_package(outermost) is None and PathFinder.find_spec(outermost, [str(Path.cwd())]) is None:
        raise RequestError(
            f"--model {model} cannot be imported (No module named {outermost!r}): give an importable module and a "
            "callable in it"
        )
