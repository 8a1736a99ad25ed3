"""The runner for a model and images that are in memory, without a folder."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Unpack, overload

import pandas as pd
from rich.console import Console
from torch import nn

from robustbench_bcos.attacks import PREDICTION, goal_names, norm_name
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.bench.cells import make_attacks
from robustbench_bcos.bench.config import RunConfig, radius_of
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.display import watch
from robustbench_bcos.bench.fooled import make_fooled, make_fooled_images
from robustbench_bcos.bench.images import open_images
from robustbench_bcos.bench.options import EvaluateOptions
from robustbench_bcos.bench.preconditions import adapt_model, try_model
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.request import Request, check_request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.saving import AdversarialImages, adversarials_of
from robustbench_bcos.bench.schedule import Schedule
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.adapted import Adapted, copied, in_evaluation_mode, name_of
from robustbench_bcos.core.arrays import Array, read_pairs
from robustbench_bcos.core.devices import choose_device
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.options import check_in_memory, parameters
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.types import AnyModel, Images
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.models import LoadedModel, Model, find_models, own_model

OPTIONS = {name: one for name, one in parameters(RunConfig).items() if one.option.in_memory}
"""What ``evaluate`` takes beside the model and the images."""

DEFAULTS: dict[str, Any] = {"skip_model_checks": True}
"""Defaults that differ from those of ``run``: evidence judges the model on its row instead of refusing it."""

GOAL = "explanation"
"""Of ``fool``."""

Function = TypeVar("Function", bound=Callable[..., object])


def _signed(function: Function, **defaults: Any) -> Function:  # noqa: ANN401 (of any option)
    """Show every option of the configuration in a function's signature, for ``help()`` and completion."""
    defaults = DEFAULTS | defaults
    declared = inspect.signature(function)
    *own, _ = declared.parameters.values()
    taken = {parameter.name for parameter in own}
    own += [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults[name] if name in defaults else one.field.get_default(call_default_factory=True),
            annotation=EvaluateOptions.__annotations__[name],
        )
        for name, one in OPTIONS.items()
        if name not in taken
    ]
    function.__signature__ = declared.replace(parameters=own)  # type: ignore[attr-defined]
    return function


@overload
def evaluate(
    model: AnyModel | str,
    images: Array,
    labels: Array | None = None,
    norm: str | Sequence[str] = (),
    eps: str | float | Quantity | Sequence[str | float | Quantity] = (),
    attack: str | AbstractAttack | Sequence[str | AbstractAttack] = "pgd",
    *,
    name: str | None = None,
    return_adversarials: Literal[False] = False,
    progress: bool = False,
    **options: Unpack[EvaluateOptions],
) -> pd.DataFrame: ...


@overload
def evaluate(
    model: AnyModel | str,
    images: Array,
    labels: Array | None = None,
    norm: str | Sequence[str] = (),
    eps: str | float | Quantity | Sequence[str | float | Quantity] = (),
    attack: str | AbstractAttack | Sequence[str | AbstractAttack] = "pgd",
    *,
    name: str | None = None,
    return_adversarials: Literal[True],
    progress: bool = False,
    **options: Unpack[EvaluateOptions],
) -> tuple[pd.DataFrame, list[AdversarialImages]]: ...


@_signed
def evaluate(
    model: AnyModel | str,
    images: Array,
    labels: Array | None = None,
    norm: str | Sequence[str] = (),
    eps: str | float | Quantity | Sequence[str | float | Quantity] = (),
    attack: Any = "pgd",  # The overloads say what; anything else is refused in a sentence.
    *,
    name: str | None = None,
    return_adversarials: bool = False,
    progress: bool = False,
    **options: Unpack[EvaluateOptions],
) -> pd.DataFrame | tuple[pd.DataFrame, list[AdversarialImages]]:
    """Robust accuracies of a model, one row per cell, in the columns of ``results.csv``.

    Args:
        model: any callable from images in [0, 1] to logits, or a zoo name; it is left as it was. Of a module, a copy is
            asked, in evaluation mode and float32. Of several outputs, the logits are taken; one logit alone is that of
            the second of two classes.
        images: RGB of shape (image, 3, height, width), a tensor or an array: floating-point in [0, 1], or uint8, which
            is divided by 255. Or a DataLoader or dataset of images and labels, which is read into memory.
        labels: one class per image, or one-hot rows.
        norm: name of a norm, or several.
        eps: radii in units of the pixel range, as numbers or as text such as ``8/255``.
        attack: names or attacks; an attack brings its own settings.
        name: of the model, for the row.
        return_adversarials: whether the adversarial images of each row come with the rows, as a second result.
        progress: whether to show on standard error how far it is, and how long it will take.
        options: those of the command line that are not about other models and images, under the same names and with
            the same defaults, but for ``skip_model_checks`` (true: evidence says on the row what is wrong with a model,
            where ``run`` refuses it). docs/reference/options.md lists them.

    Raises:
        RequestError: it cannot be carried out as asked.
    """
    given = model, images, labels, norm, eps, attack
    with _in_memory(*given, name=name, options=options, save=return_adversarials) as request, Store() as store:
        _carry_out(request, store, progress=progress)
        rows = make_records(store, request.identity)
        if not return_adversarials:
            return rows
        return rows, [adversarials_of(request, store, cell) for cell in request.cells]


class Fooled(NamedTuple):
    """What attacks did to explanations, in the columns of the files that ``run`` writes."""

    rows: pd.DataFrame
    """``fooled.csv``: one row per threat, method and goal."""
    images: pd.DataFrame
    """``fooled_images.csv``: every comparison of every image."""


@partial(_signed, goal=GOAL)
def fool(
    model: AnyModel | str,
    images: Array,
    labels: Array | None = None,
    norm: str | Sequence[str] = (),
    eps: str | float | Quantity | Sequence[str | float | Quantity] = (),
    attack: str | AbstractAttack | Sequence[str | AbstractAttack] = "pgd",
    *,
    name: str | None = None,
    progress: bool = False,
    **options: Unpack[EvaluateOptions],
) -> Fooled:
    """Attacks on explanations that leave the prediction as it is, beside one on the prediction and noise.

    Args:
        model: as of :func:`evaluate`; one that it gives second derivatives.
        images: as of :func:`evaluate`; the first 50 are attacked, or as many as ``explained`` says.
        labels: as of :func:`evaluate`; explanations of images that the model is wrong about are not attacked.
        norm: as of :func:`evaluate`.
        eps: as of :func:`evaluate`.
        attack: one that follows gradients.
        name: of the model, for the rows.
        progress: as of :func:`evaluate`.
        options: those of :func:`evaluate`, such as ``goal=["explanation:topk"], method=["auto", "gradcam"]``; the goal
            is ``explanation`` where none is given.

    Raises:
        RequestError: it cannot be carried out as asked, or maps of the method have no derivative.
    """
    given, asked = (model, images, labels, norm, eps, attack), {"goal": GOAL} | options
    with _in_memory(*given, name=name, options=asked) as request, Store() as store:
        if request.fooled is None:
            raise RequestError(
                f"goal {PREDICTION} leaves explanations alone: choose from {', '.join(goal_names()[1:])}"
            )
        _carry_out(request, store, progress=progress)
        return Fooled(make_fooled(store, request.identity), make_fooled_images(store, request.identity))


@contextmanager
def _in_memory(
    model: AnyModel | str,
    images: Array,
    labels: Array | None,
    norm: str | Sequence[str],
    eps: str | float | Quantity | Sequence[str | float | Quantity],
    attack: Any,  # noqa: ANN401 (as of evaluate)
    *,
    name: str | None,
    options: Mapping[str, Any],
    save: bool = False,
) -> Iterator[Request]:
    """A request for a model, which is in evaluation mode for as long as it is carried out."""
    check_in_memory(options, OPTIONS, RunConfig, "run")
    _check_targets(options)
    attacks = _attacks(attack)
    named = tuple(one for one in attacks if isinstance(one, str))
    memory = {"dataset": "memory", "figures": False, "save_adversarials": save}
    asked = {"norm": norm, "eps": eps, "attack": named, **options}
    config = make_config(DEFAULTS | memory | asked)
    if not (config.threat or (config.norm and config.eps)):
        raise RequestError("threat is missing: give norm and eps, or a threat such as linf:8/255")
    with in_evaluation_mode(model):
        data = read_pairs(images, labels, channels=config.channels or 3)
        loaded = load_one(model, name)
        config = config.model_copy(update={"device": device_of(config, loaded)})
        subset = EvalSubset.of(InMemory(*data, classes=classes_of(loaded, data[0], config.device)))
        own = [one for one in attacks if isinstance(one, AbstractAttack)]
        yield check_request(config, subset, [LoadedModel(loaded)], [*(make_attacks(config) if named else ()), *own])


def benchmark(
    model: AnyModel | str,
    dataset: str = "cifar10",
    threat: str = "Linf",
    attack: str | Sequence[str] = "autoattack",
    *,
    limit: int | None = None,
    data_dir: Path | str | None = None,
    download: bool = False,
    name: str | None = None,
    progress: bool = False,
    **options: Any,  # noqa: ANN401 (as of evaluate)
) -> pd.DataFrame:
    """Robust accuracies of a model on the test images of a dataset, as :func:`evaluate` has them.

    Args:
        model: as of :func:`evaluate`.
        dataset: as of the command line, such as ``cifar10`` or ``folder:DIR``.
        threat: a norm, whose radius is then the one that the field reports on this dataset, or a norm and a radius,
            ``linf:8/255``.
        attack: names of attacks.
        limit: of images, balanced over classes; by default all are used.
        data_dir: the folder that holds the dataset.
        download: whether to fetch cifar10 if it is not there.
        name: of the model, for the row.
        progress: as of :func:`evaluate`.
        options: further ones of :func:`evaluate`.

    Raises:
        RequestError: it cannot be carried out as asked, or the field reports no radius for this norm and dataset.
    """
    check_in_memory(options, OPTIONS, RunConfig, "run")
    if len(threat.replace(":", " ").split()) == 1:
        norm = norm_name(threat)
        threat = f"{norm}:{radius_of(dataset, norm)}"
    asked = {"dataset": dataset, "threat": threat, "attack": attack, "limit": limit, "data_dir": data_dir}
    config = make_config(DEFAULTS | {"figures": False, "download": download} | asked | options)
    with in_evaluation_mode(model):
        loaded = load_one(model, name)
        config = config.model_copy(update={"device": device_of(config, loaded)})
        # The source of a zoo model knows how its images are resized and cropped.
        framed = find_models(model, Zoo()) if isinstance(model, str) else [LoadedModel(loaded)]
        subset = EvalSubset.of(open_images(config, framed), config.limit)
        request = check_request(config, subset, [LoadedModel(loaded)])
        with Store() as store:
            _carry_out(request, store, progress=progress)
            return make_records(store, request.identity)


def _carry_out(request: Request, store: Store, *, progress: bool) -> None:
    # What the command prints before it begins: copies among the images, say.
    for note in request.notes:
        warnings.warn(note, stacklevel=3)
    console = Console(stderr=True) if progress else None
    for _ in watch(execute(request, store), Schedule(request=request).work, console):
        pass


def _check_targets(options: Mapping[str, Any]) -> None:
    for name in ("target", "targets"):
        given = options.get(name)
        if getattr(given, "ndim", 0) or (isinstance(given, Sequence) and not isinstance(given, str)):
            many = ", and targets is how many classes an attack tries" if name == "targets" else ""
            raise RequestError(
                f"{name} lists classes{many}: give target, one class that all images are to be turned into, or ask an "
                "attack, as in rb.PGD()(model, images, labels, 'l2', 0.5, targets=classes), for one of each image"
            )


def _attacks(given: Any) -> tuple[str | AbstractAttack, ...]:  # noqa: ANN401 (anything is refused in a sentence)
    listed = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    for one in listed:
        if isinstance(one, type) and issubclass(one, AbstractAttack):
            raise RequestError(f"attack must be an attack, got the class {one.__name__}: give {one.__name__}()")
        if not isinstance(one, str | AbstractAttack):
            raise RequestError(
                f"attack must be a name, such as 'pgd', or an attack of this package, such as PGD(steps=100), got a "
                f"{type(one).__module__}.{type(one).__qualname__}: register it as docs/extending.md shows"
            )
    return listed


def load_one(model: AnyModel | str, name: str | None) -> Model:
    """A model of the zoo, or somebody's own, of which a copy is asked where one can be made.

    Raises:
        RequestError: no such model, or several.
    """
    if isinstance(model, str):
        found = find_models(model, Zoo())
        if len(found) > 1:
            raise RequestError(f"{model!r} names {len(found)} models: evaluate one at a time")
        return replace(found[0].load(), name=name or model)
    return own_model(name or name_of(model), freeze(_own(model)))


def _own(model: AnyModel) -> nn.Module:
    """A copy of the module, or, where it cannot be copied, a wrapper of it; :func:`in_evaluation_mode` restores it."""
    if not isinstance(model, nn.Module):
        return Adapted(model)
    try:
        return copied(model)
    except Exception:  # A module may hold objects that cannot be copied, such as locks or files.
        return Adapted(model)


def device_of(config: RunConfig, model: Model) -> str:
    """The device of a run; a model that is not ours stays where it is unless it is asked elsewhere."""
    like = next(model.classifier.parameters(), None)
    if config.device == "auto" and isinstance(model.classifier, Adapted) and like is not None:
        return str(like.device)
    return choose_device(config.device)


def classes_of(model: Model, images: Images, device: str) -> int:
    """Number of logits, asked for on the first images where nothing says it."""
    if model.classes is not None:
        return model.classes
    shown = images[:2].float()
    return try_model(adapt_model(model, shown, device), shown, device).shape[1]
