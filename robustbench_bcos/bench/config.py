"""What a run is asked to do: one frozen object, read without torch.

Flags override the suite file, the suite file overrides the defaults.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.selection import Count, Start
from robustbench_bcos.core.tables import PackagedTables, Table, parse_table
from robustbench_bcos.core.trainings import Trainings
from robustbench_bcos.explanations import method_names
from robustbench_bcos.model_zoo.cards import Zoo

NORM_NAMES = ("l2", "linf")
EXPLAINED = 50
"""Images whose explanations are compared where nothing else is asked for."""

TARGETED = "targeted_dlr"
"""The loss that aims at one wrong class after another; Auto-PGD alone has it."""

LOSS_NAMES = ("auto", "bce", "ce", "margin", "dlr", TARGETED)
ATTACK_NAMES = ("pgd", "apgd", "square", "fab", "autoattack", "noise")

Space = Literal["image", "encoded"]
Evidence = Literal["quick", "full", "off"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
Precision = Literal["fp32", "tf32", "bf16"]
Interpolation = Literal["bilinear", "bicubic"]

CHOICES: dict[str, tuple[str, ...]] = {
    "norm": NORM_NAMES,
    "loss": LOSS_NAMES,
    "attack": ATTACK_NAMES,
    "start": get_args(Start),
    "count": get_args(Count),
    "space": get_args(Space),
    "evidence": get_args(Evidence),
    "memory_format": get_args(MemoryFormat),
    "precision": get_args(Precision),
    "interpolation": get_args(Interpolation),
}
"""What can be asked for, by option."""


class Grid(Table):
    """The attacks of a run: every combination of what is listed."""

    attack: tuple[str, ...] = ("pgd",)
    norm: tuple[str, ...] = ("l2",)
    eps: tuple[str, ...] = ("0.5",)
    """Radii as written, in units of the pixel range: ``0.5``, ``8/255``."""
    paired: bool = False
    """Whether each norm is meant with the radius in its place alone, and not every norm with every radius."""
    steps: tuple[int, ...] = (20,)
    step_size: str | None = None
    """In units of the pixel range; by default 2.5 * eps / steps."""
    loss: tuple[str, ...] = ("auto",)
    """``auto`` is the loss on each model's card."""
    restarts: tuple[int, ...] = (1,)
    queries: int = 5000
    """Of Square, per image and restart."""
    targets: int = 9
    """Wrong classes that a targeted search aims at, at most."""
    start: Start = "image"
    count: Count = "any"
    space: Space = "image"
    """``encoded`` moves the channels of a B-cos encoding apart; it only serves to reproduce old numbers."""

    @property
    def parts(self) -> list["Grid"]:
        """Grids of which every combination is meant."""
        if not self.paired:
            return [self]
        pairs = zip(self.norm, self.eps, strict=True)
        return [self.model_copy(update={"norm": (norm,), "eps": (eps,), "paired": False}) for norm, eps in pairs]


class RunConfig(Grid):
    """A grid, the models it is for, the images, and where it runs."""

    model: tuple[str, ...] = ()
    """Zoo names, globs, ``torchvision:NAME`` and the like, ``module:callable``; by default the dataset's whole zoo."""
    zoo: tuple[Path, ...] = ()
    weights: Path | None = None
    architecture: str | None = None
    encoding: str | None = None
    """Of ``weights``, or, where there are none, of models that have no card."""
    skip_model_checks: bool = False
    """Whether to attack models whose answers make every number meaningless."""
    argument: dict[str, Any] = Field(default_factory=dict)
    """What cannot be read from ``weights``: arguments of the architecture."""
    ema: bool = False
    """Whether the moving average of ``weights`` is meant."""
    dataset: str = "digits"
    data_dir: Path | None = None
    download: bool = False
    limit: int | None = Field(default=None, ge=1)
    resize: int | None = Field(default=None, ge=1)
    """Pixels of the shorter side of image files; by default as the models' cards say."""
    crop: int | None = Field(default=None, ge=1)
    """Pixels of a side of the square in the middle that is kept; by default as the models' cards say."""
    interpolation: Interpolation | None = None
    image_list: Path | None = None
    """Names the image files to use, one a line; by default all."""
    seed: int = Field(default=0, ge=0)
    batch_size: int | None = Field(default=None, ge=1)
    """Images worked on together; by default as many as fit into memory, 256 at most."""
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; by default one for small images and torch's own choice for others."""
    jobs: int | None = Field(default=None, ge=1)
    """Models worked on at the same time; by default one a core where ``threads`` is one, or else one."""
    compile: bool = False
    """Whether attacks walk on compiled networks; the judge never does."""
    memory_format: MemoryFormat = "auto"
    """Of the networks attacks walk on, where they are this package's or a library's; by default channels last."""
    precision: Precision = "fp32"
    """Of the networks attacks walk on; what they find is judged in float32."""
    figures: bool = True
    evidence: Evidence = "quick"
    """Checks of each number: on some of the images that withstood the attack, on all of them, or none."""
    independent_cells: bool = False
    """Whether images that fell within a smaller radius, or in fewer steps, are attacked again in every other cell."""
    distances: bool = False
    """Whether the smallest epsilon that fools each image is searched for."""
    explanation: str = "auto"
    explained: int | None = Field(default=None, ge=0)
    """Images explained, the first of the slice; by default 50 where there are figures, and none where there are not."""
    images: tuple[int, ...] = ()
    """Dataset indices of the images to be pictured; by default some that fell and some that did not."""

    @property
    def explanations(self) -> int:
        """Images explained, the pictured ones not counted."""
        if self.explained is not None:
            return self.explained
        return EXPLAINED if self.figures else 0


class Suite(Table):
    """A named grid, and the models it is for where they are to be trained; what it leaves out has its default."""

    description: str
    norm: tuple[str, ...]
    eps: tuple[str, ...]
    steps: tuple[int, ...]
    loss: tuple[str, ...] | None = None
    restarts: tuple[int, ...] | None = None
    limit: int | None = None
    paired: bool | None = None
    explained: int | None = None
    trainings: Trainings | None = None
    """What ``train --suite`` makes, and what is attacked unless models are named."""

    @model_validator(mode="after")
    def _a_radius_for_each_norm(self) -> "Suite":
        if self.paired and len(self.norm) != len(self.eps):
            raise ValueError("paired needs as many radii in eps as there are norms")
        return self


SUITES = PackagedTables("suite", Suite, "robustbench_bcos.bench", "suites")


def make_config(flags: Mapping[str, Any], suite: str | None = None) -> RunConfig:
    """Defaults, overridden by the suite, overridden by the flags that were given, checked.

    Raises:
        RequestError: a value that cannot be carried out, whatever the data.
    """
    values = {} if suite is None else _of_suite(SUITES.load(suite), flags)
    values |= {key: value for key, value in flags.items() if value not in (None, (), {})}
    _check_names(values)
    config = parse_table(RunConfig, values, "the request")
    _check_numbers(config)
    if config.weights is None:
        _check_no_weights_are_described(config)
    return config


def check_trained(config: RunConfig, suite: str) -> None:
    """Refuse to attack models that a suite has yet to train, named or matched by a glob.

    Raises:
        RequestError: with the command that makes them.
    """
    trainings = SUITES.load(suite).trainings
    if trainings is None:
        return
    meant = [name for name in trainings.models if any(fnmatchcase(name, pattern) for pattern in config.model)]
    known = Zoo(config.zoo).entries
    missing = [name for name in meant if name not in known]
    if missing:
        more = ", ..." if len(missing) > 1 else ""
        raise RequestError(
            f"{len(missing)} of the {len(meant)} models of suite {suite} are not there ({missing[0]}{more}): "
            f"`train --suite {suite} --out DIR` makes them, and --zoo DIR finds them; or name others with --model"
        )


def _of_suite(suite: Suite, flags: Mapping[str, Any]) -> dict[str, Any]:
    """What a suite says of a run, but for what flags take from it."""
    values = suite.model_dump(exclude={"description", "trainings"}, exclude_none=True)
    if suite.trainings is not None and not flags.get("weights"):
        values["model"] = suite.trainings.models
    if suite.paired and flags.get("eps"):
        # Radii of one's own are for every norm, as everywhere.
        values["paired"] = False
    elif suite.paired and flags.get("norm"):
        pairs = [
            (norm, eps)
            for asked in flags["norm"]
            for norm, eps in zip(suite.norm, suite.eps, strict=True)
            if norm == asked
        ]
        values["eps"] = tuple(eps for _, eps in pairs) or suite.eps
        values["paired"] = tuple(norm for norm, _ in pairs) == tuple(flags["norm"])
    return values


def _check_no_weights_are_described(config: RunConfig) -> None:
    described = {"architecture": config.architecture, "argument": config.argument, "ema": config.ema}
    for option, value in described.items():
        if value:
            raise RequestError(f"--{option} describes --weights: give it too, or leave it out")
    if config.encoding is not None and not any(":" in model for model in config.model):
        raise RequestError(
            "--encoding describes --weights, or models without a card such as --model my_package.nets:make: give one, "
            "or leave it out"
        )


def _check_names(values: Mapping[str, Any]) -> None:
    """Before values are parsed, because only this knows what was probably meant."""
    # Methods are listed late, because a plug-in may have added one.
    for kind, known in (CHOICES | {"explanation": method_names()}).items():
        asked = values.get(kind, ())
        for name in asked if isinstance(asked, list | tuple) else (asked,):
            if name not in known:
                raise unknown(kind, str(name), known)


def _check_numbers(config: RunConfig) -> None:
    for eps in config.eps:
        Quantity.of(eps)
    counted = {"--steps": config.steps, "--restarts": config.restarts}
    counted |= {"--queries": (config.queries,), "--targets": (config.targets,)}
    for name, counts in counted.items():
        for count in counts:
            if count < 1:
                raise RequestError(f"{name} {count} must be at least 1")
    if TARGETED in config.loss and set(config.attack) != {"apgd"}:
        raise RequestError(f"--loss {TARGETED} is for --attack apgd: give that, or another loss")
    for image in config.images:
        if image < 0:
            raise RequestError(f"--images {image} must be at least 0: give indices of the dataset")
    if config.step_size is not None and Quantity.of(config.step_size, name="step_size").value == 0:
        raise RequestError(f"--step-size {config.step_size} must be positive: leave it out for 2.5 * eps / steps")
