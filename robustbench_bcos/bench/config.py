"""What a run is asked to do: one frozen object, read without torch, whose fields are the options everywhere.

The command line, the keyword parameters of ``evaluate`` and docs/reference/options.md are made from the fields below.
"""

from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from robustbench_bcos.attacks import (
    ATTACKS,
    CRITERIA,
    LOSSES,
    NORMS,
    PREDICTION,
    UNTARGETED,
    goal_names,
    map_goal,
)
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.trackers import TRACKERS
from robustbench_bcos.bench.values import (
    Channels,
    CriterionText,
    Epsilon,
    Index,
    Listed,
    Norm,
    Positive,
    Several,
    Sigma,
    StepSize,
    ThreatText,
)
from robustbench_bcos.certificates import CERTIFICATES
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Interpolation
from robustbench_bcos.core.options import Option
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.selection import Select, Start
from robustbench_bcos.core.tables import PackagedTables, Table
from robustbench_bcos.core.trainings import Trainings
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.opening import dataset_class
from robustbench_bcos.explanations import method_names

DEFAULT_NORM = "l2"

EXPLAINED = 50
"""Images whose explanations are compared where nothing else is asked for."""

Space = Literal["image", "encoded"]
Evidence = Literal["quick", "full", "off"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
Precision = Literal["fp32", "tf32", "bf16"]
FigureFormat = Literal["png", "pdf"]

ATTACK, MODELS, IMAGES, EXPLANATIONS, RUN = (
    "The attack",
    "The models",
    "The images",
    "The explanations",
    "The run",
)

EACH = "each"
"""The target that stands for every class, one after the other."""

Limit = Annotated[
    Positive | None, Option(help="Use so many images, balanced over classes.", panel=IMAGES, in_memory=False)
]
Explained = Annotated[
    Annotated[int, Field(ge=0)] | None,
    Option(
        help="Images whose explanations are compared: the first so many.",
        panel=EXPLANATIONS,
        default=f"{EXPLAINED} with figures and none without",
    ),
]


class Grid(Table):
    """The attacks of a run: every combination of what is listed."""

    norm: Annotated[
        Several[Norm],
        # Not closed, because there are more ways of writing a norm than it has names.
        Option(
            help="How a perturbation is measured: {names}.",
            panel=ATTACK,
            default=DEFAULT_NORM,
            names=lambda: NORMS,
            closed=False,
        ),
    ] = ()
    eps: Annotated[
        Several[Epsilon],
        Option(
            help="Radius for each `norm`, in units of the pixel range: 0.5, 8/255.",
            panel=ATTACK,
            default="that of digits, 0.5 in l2 and 0.1 in linf, and no other data set's",
        ),
    ] = ()
    threat: Annotated[
        Several[ThreatText],
        Option(help="NORM:EPS, in place of `norm` and `eps`: l2:0.5,linf:8/255.", panel=ATTACK, default=None),
    ] = ()
    attack: Annotated[
        Listed[str], Option(help="How the perturbation is searched for: {names}.", panel=ATTACK, names=lambda: ATTACKS)
    ] = ("pgd",)
    steps: Annotated[Listed[Positive], Option(help="Steps of an attack that follows gradients.", panel=ATTACK)] = (20,)
    step_size: Annotated[
        StepSize | None,
        Option(help="Of PGD, in units of the pixel range.", panel=ATTACK, default="2.5 * eps / steps"),
    ] = None
    loss: Annotated[
        Listed[str],
        Option(
            help="What the attack ascends: {names}; auto is the loss on each model's card.",
            panel=ATTACK,
            names=lambda: ("auto", *LOSSES),
        ),
    ] = ("auto",)
    restarts: Annotated[
        Listed[Positive], Option(help="Runs per image; further ones start at random.", panel=ATTACK)
    ] = (1,)
    start: Annotated[Start, Option(help="Where the first run starts: {names}.", panel=ATTACK)] = "image"
    select: Annotated[Select, Option(help="Which iterate an attack returns: {names}.", panel=ATTACK)] = "first_success"
    queries: Annotated[Positive, Option(help="Of square, per image and restart.", panel=ATTACK)] = 5000
    targets: Annotated[
        Positive, Option(help="Wrong classes that attacks which aim at classes try, at most.", panel=ATTACK)
    ] = 9
    option: Annotated[
        dict[str, Any],
        Option(help="KEY=VALUE for an option of an attack that has no parameter of its own here.", panel=ATTACK),
    ] = Field(default_factory=dict)
    criterion: Annotated[
        CriterionText,
        # Not closed, because an argument may follow a name.
        Option(help="When an attack has succeeded: {names}.", panel=ATTACK, names=lambda: CRITERIA, closed=False),
    ] = UNTARGETED
    target: Annotated[
        Annotated[str, Field(coerce_numbers_to_str=True)] | None,
        Option(
            help="The class that images are to be turned into, by number or name; least_likely; or each, for one row "
            "per class. It makes `criterion` targeted.",
            panel=ATTACK,
        ),
    ] = None
    space: Annotated[
        Space,
        Option(
            help="What is perturbed: {names}. No image looks like an attacked encoding; it reproduces old numbers.",
            panel=ATTACK,
        ),
    ] = "image"

    @property
    def criterion_text(self) -> str:
        """The criterion with its target."""
        return self.criterion if self.target is None else f"{self.criterion}:{self.target}"

    @property
    def threats(self) -> tuple[tuple[str, Quantity], ...]:
        """Norms and radii: those of ``threat``, or every norm with every radius."""
        if self.threat:
            pairs = (text.split(":", maxsplit=1) for text in self.threat)
            return tuple((norm, Quantity.of(eps)) for norm, eps in pairs)
        return tuple(product(self.norm or (DEFAULT_NORM,), self.eps))


class RunConfig(Grid):
    """A grid, the models it is for, the images, and where it runs.

    Attributes:
        of_goals: options that say how explanations are attacked, and have no meaning without a goal.
        of_certificates: options that say how is certified.
    """

    of_goals: ClassVar[tuple[str, ...]] = ("method", "confidence_band")
    of_certificates: ClassVar[tuple[str, ...]] = ("certify_sigma", "certify_draws", "certify_alpha")

    evidence: Annotated[
        Evidence,
        Option(
            help="Checks of each number: {names}. quick checks some of the images that stay robust, at the cost of the "
            "attack at most.",
            panel=ATTACK,
        ),
    ] = "quick"
    independent_cells: Annotated[
        bool,
        Option(
            help="Attack images that a smaller radius or fewer steps broke again in every other cell.", panel=ATTACK
        ),
    ] = False
    distances: Annotated[
        bool, Option(help="Also find the smallest epsilon that breaks each image.", panel=ATTACK, in_memory=False)
    ] = False
    certify: Annotated[
        Several[str],
        Option(
            help="Certify the smoothed network, which is not the network that is attacked: {names}.",
            panel=ATTACK,
            default=None,
            names=lambda: CERTIFICATES,
            in_memory=False,
        ),
    ] = ()
    certify_sigma: Annotated[
        Listed[Sigma],
        Option(
            help="Deviation of the noise that smooths it, in units of the pixel range.", panel=ATTACK, in_memory=False
        ),
    ] = (Quantity.of(0.25),)
    certify_draws: Annotated[
        Positive,
        Option(help="Noisy images that each bound is made from; papers have 100000.", panel=ATTACK, in_memory=False),
    ] = 1000
    certify_alpha: Annotated[
        float,
        Option(help="Probability that what is certified of an image is wrong.", panel=ATTACK, in_memory=False),
        Field(gt=0, lt=0.5),
    ] = 0.001
    save_adversarials: Annotated[
        bool,
        Option(
            help="Also write the adversarial images into the run folder, as numbers without loss and as pictures.",
            panel=ATTACK,
            in_memory=False,
        ),
    ] = False
    model: Annotated[
        Several[str],
        Option(
            help="Zoo name, glob, folder of cards, torchvision:NAME, timm:NAME, robustbench:ID, clip:NAME, or "
            "module:callable.",
            panel=MODELS,
            default="the dataset's whole zoo",
            in_memory=False,
        ),
    ] = ()
    weights: Annotated[
        Path | None, Option(help="Checkpoint of any layout in docs/weights.md.", panel=MODELS, in_memory=False)
    ] = None
    architecture: Annotated[
        str | None,
        Option(
            help="What `weights` was made with: bcos_resnet56, torchvision:resnet50, ...",
            panel=MODELS,
            in_memory=False,
        ),
    ] = None
    encoding: Annotated[
        str | None,
        Option(
            help="What `weights`, or else a `model` without a card, takes: none, add_inverse, normalize:imagenet, "
            "normalize:0.5,0.5,0.5/0.5,0.5,0.5.",
            panel=MODELS,
            in_memory=False,
        ),
    ] = None
    argument: Annotated[
        dict[str, Any],
        Option(
            help="KEY=VALUE of the architecture that `weights` leaves open: b=1.5, norm=batch.",
            panel=MODELS,
            in_memory=False,
        ),
    ] = Field(default_factory=dict)
    ema: Annotated[
        bool,
        Option(help="Take the moving average of `weights`, where it has one.", panel=MODELS, in_memory=False),
    ] = False
    zoo: Annotated[Several[Path], Option(help="Folder with further cards.", panel=MODELS, in_memory=False)] = ()
    templates: Annotated[
        str | None,
        Option(
            help="Texts of a vision-language model that names of classes are put into: plain, openai (the 80 published "
            "ones), or a file with one a line.",
            default="the card's own, or plain",
            panel=MODELS,
            in_memory=False,
        ),
    ] = None
    skip_model_checks: Annotated[
        bool, Option(help="Also attack models whose outputs make every number meaningless.", panel=MODELS)
    ] = False
    dataset: Annotated[
        str,
        Option(
            help="Name: {names}. A folder is folder:DIR, with a folder of images for each class.",
            panel=IMAGES,
            names=lambda: DATASETS,
            closed=False,
            in_memory=False,
        ),
    ] = "digits"
    data_dir: Annotated[
        Path | None, Option(help="Folder that holds cifar10, imagenet or voc.", panel=IMAGES, in_memory=False)
    ] = None
    download: Annotated[bool, Option(help="Fetch cifar10 if it is not there.", panel=IMAGES, in_memory=False)] = False
    limit: Limit = None
    resize: Annotated[
        Positive | None,
        Option(
            help="Pixels of the shorter side of image files, before `crop`.",
            panel=IMAGES,
            default="as the models' cards say",
            in_memory=False,
        ),
    ] = None
    crop: Annotated[
        Positive | None,
        Option(
            help="Pixels of a side of the square in the middle that is kept.",
            panel=IMAGES,
            default="as the models' cards say",
            in_memory=False,
        ),
    ] = None
    interpolation: Annotated[
        Interpolation | None,
        Option(help="Of `resize`: {names}.", panel=IMAGES, default="as the models' cards say", in_memory=False),
    ] = None
    image_list: Annotated[
        Path | None,
        Option(help="Text file that names the image files to use, one a line.", panel=IMAGES, in_memory=False),
    ] = None
    channels: Annotated[
        Channels | None,
        Option(
            help="Of the images that models take and attacks change: 3, or 1 for grey ones.",
            panel=IMAGES,
            default="those of the dataset: 1 for idx, 3 for others",
        ),
    ] = None
    classes: Annotated[
        Path | None,
        Option(
            help="File that says which class folder is which output of the models: a name a line, or JSON.",
            panel=IMAGES,
            default="as the models' cards say, or the folders in the order of their names",
            in_memory=False,
        ),
    ] = None
    explained: Explained = None
    explanation: Annotated[
        str,
        Option(
            help="Method: {names}; auto is dynamic_weights for B-cos networks and input_x_gradient for others.",
            panel=EXPLANATIONS,
            names=method_names,
        ),
    ] = "auto"
    goal: Annotated[
        Listed[str],
        Option(
            help="What attacks move: {names}. Those of explanations come on top, and leave the prediction as it is; "
            "explanation alone is explanation:away.",
            panel=EXPLANATIONS,
            names=goal_names,
        ),
    ] = (PREDICTION,)
    method: Annotated[
        Several[str],
        Option(
            help="Whose maps a `goal` of explanations is about: {names}.",
            panel=EXPLANATIONS,
            default="that of `explanation`",
            names=method_names,
        ),
    ] = ()
    confidence_band: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        Option(
            help="By how much the confidence may change under such a `goal`.",
            panel=EXPLANATIONS,
            default="any, as long as the class is the same",
        ),
    ] = None
    images: Annotated[
        Several[Index],
        Option(
            help="Dataset indices of the images to picture: 3,14,15.",
            panel=EXPLANATIONS,
            default="some that are broken and some that are robust",
            in_memory=False,
        ),
        AfterValidator(lambda images: tuple(dict.fromkeys(images))),
    ] = ()
    figures: Annotated[
        bool,
        Option(
            help="No figures and no page, and nothing explained unless `explained` says so.",
            panel=EXPLANATIONS,
            flag="--no-figures",
            in_memory=False,
        ),
    ] = True
    figure_format: Annotated[
        Listed[FigureFormat],
        Option(
            help="Files of each figure: {names}. The page has all figures in any case.",
            panel=EXPLANATIONS,
            in_memory=False,
        ),
    ] = ("png",)
    batch_size: Annotated[
        Positive | None,
        Option(help="Images attacked together.", panel=RUN, default="as many as fit into memory, 256 at most"),
    ] = None
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1.", panel=RUN)] = "auto"
    threads: Annotated[
        Positive | None,
        Option(
            help="CPU threads.",
            panel=RUN,
            default="one for small images and torch's own choice for others",
            in_memory=False,
        ),
    ] = None
    jobs: Annotated[
        Positive | None,
        Option(
            help="Models attacked at the same time; with another `executor`, jobs at the same time.",
            panel=RUN,
            default="one a core where `threads` is one, or else one; as many as slurm allows",
            in_memory=False,
        ),
    ] = None
    executor: Annotated[
        str,
        Option(
            help="Where the work is done: {names}. local is this process; see docs/cluster.md.",
            panel=RUN,
            names=lambda: EXECUTORS,
            in_memory=False,
        ),
    ] = "local"
    job_minutes: Annotated[
        float,
        Option(help="What a job of another `executor` takes at most, about.", panel=RUN, in_memory=False),
        Field(gt=0, allow_inf_nan=False),
    ] = 10.0
    slurm: Annotated[
        Several[str],
        Option(
            help="KEY=VALUE of sbatch for `executor` slurm: partition=gpu,gres=gpu:1,time=60.",
            panel=RUN,
            in_memory=False,
        ),
    ] = ()
    compile: Annotated[bool, Option(help="Attack compiled networks; slow to start.", panel=RUN)] = False
    memory_format: Annotated[
        MemoryFormat,
        Option(help="Of attacked networks: {names}; auto is channels_last where that is known to be safe.", panel=RUN),
    ] = "auto"
    precision: Annotated[
        Precision, Option(help="Of attacked networks: {names}; verdicts are always in fp32.", panel=RUN)
    ] = "fp32"
    eot: Annotated[
        Positive,
        Option(
            help="Average logits and gradients of models that are random by design over so many draws.", panel=MODELS
        ),
    ] = 1
    seed: Annotated[int, Field(ge=0), Option(help="Of random starts and noise.", panel=RUN)] = 0
    log: Annotated[
        Several[str],
        Option(
            help="Also send the finished run to trackers: {names}.",
            panel=RUN,
            names=lambda: TRACKERS,
            in_memory=False,
        ),
    ] = ()
    plugin: Annotated[
        Several[Path],
        Option(help="Python file that registers norms, attacks, losses and the like; it is run.", panel=RUN),
    ] = ()
    plugin_digests: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each plug-in by its name, as :func:`make_config` has loaded it."""

    @property
    def threats(self) -> tuple[tuple[str, Quantity], ...]:
        """Norms and radii; without a radius, that of the dataset, where it goes without saying.

        Raises:
            RequestError: it does not.
        """
        norms = () if self.threat or self.eps else self.norm or (DEFAULT_NORM,)
        return super().threats or tuple((norm, radius_of(self.dataset, norm, by_default=True)) for norm in norms)

    @property
    def explanations(self) -> int:
        """Images explained, the pictured ones not counted."""
        if self.explained is not None:
            return self.explained
        return EXPLAINED if self.figures else 0

    @property
    def map_goals(self) -> tuple[str, ...]:
        """Names of the goals that are about explanations."""
        return tuple(dict.fromkeys(map_goal(goal) for goal in self.goal if goal != PREDICTION))

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods of explanation that such goals are about, as they were asked for."""
        return self.method or (self.explanation,)

    @property
    def fooled(self) -> int:
        """Images whose explanations are attacked, the first ones."""
        return (EXPLAINED if self.explained is None else self.explained) if self.map_goals else 0


class Suite(Grid):
    """A named grid, and the models it is for where they are to be trained; what it leaves out has its default."""

    description: str
    limit: Limit = None
    explained: Explained = None
    trainings: Trainings | None = None
    """What ``train --suite`` makes, and what is attacked unless models are named."""


SUITES = PackagedTables(noun="suite", kind=Suite, package="robustbench_bcos.bench", folder="suites")


def radius_of(dataset: str, norm: str, *, by_default: bool = False) -> Quantity:
    """The radius that a norm usually has on a dataset.

    Args:
        dataset: by name, with its argument.
        norm: by name.
        by_default: whether only one is meant that goes without saying, as that of the embedded digits does.

    Raises:
        RequestError: there is none.
    """
    kind = dataset_class(dataset.partition(":")[0])
    if norm in kind.radii and (kind.radii_by_default or not by_default):
        return Quantity.of(kind.radii[norm])
    usual = f"such as {kind.radii[norm]}, which {dataset} usually has" if norm in kind.radii else "0.5 or 8/255, say"
    raise RequestError(f"eps is missing: give the radius of norm {norm} in units of the pixel range, {usual}")
