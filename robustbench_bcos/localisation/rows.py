"""Rows of scores, and what is written of them. A class is the one declaration of its table and of its file."""

from dataclasses import dataclass

from robustbench_bcos.bench.rows import Row

SUMMARY = "localisation.csv"
"""Written when everything is scored."""


@dataclass(frozen=True, kw_only=True)
class ScoreRow(
    Row,
    table="scores",
    key=("model", "method", "threat", "condition", "scene", "target", "measure"),
    blocks_of="model",
):
    """How one map scores by one measure. Its fields are the columns of ``cells.csv``, in their order."""

    model: str
    """Name of the model."""
    method: str
    """Name of the explanation method; what ``auto`` turned out to be."""
    threat: str
    """Norm and epsilon of the attack, or of that whose size the noise has; empty for clean pictures."""
    condition: str
    """``clean``, ``attack``, or ``noise`` of exactly the size of each perturbation."""
    scene: int
    """Number of the grid or other picture; the same picture for all models, unless each has its own grids."""
    target: int
    """Number of the cell or other region of the picture, from 0; cells of a grid are counted row by row."""
    image: int
    """Index in the dataset of the image that is there."""
    label: int
    """The class that is explained: the image's label, whatever the attack made of it."""
    measure: str
    """What is measured: ``share``, of the map's positive contributions those in its own cell; of masks, see their
    game."""
    score: float | None
    """Its value, to 4 significant digits: more would be float noise of the batch. Empty where it is not defined."""
    floor: float | None
    """What a map without information scores."""
    ceiling: float | None
    """What an oracle scores under the same smoothing."""
    outcome: str
    """``scored``; ``empty`` for a map without a positive contribution; ``not_finite`` for one with NaN or infinity."""
    kept: bool
    """Whether the model, shown this part of the picture by itself, predicts the label."""
    size: float
    """Norm of the perturbation of the unit that has a budget, to 6 significant digits, of which the last may be float
    noise of the batch; 0 for clean pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalisationRow:
    """Scores of one model, method and condition by one measure. Its fields are the columns of ``localisation.csv``."""

    model: str
    """Name of the model."""
    family: str
    """``bcos``, ``conventional``, or ``unknown`` for one's own code."""
    b: float | None
    """Exponent of its B-cos layers; empty for conventional networks."""
    training: str
    """What the model's card says of its training."""
    method: str
    """Name of the explanation method; what ``auto`` turned out to be."""
    control: bool
    """Whether it is no method but a map that knows nothing of the picture, which is the same for all models."""
    game: str
    """Name of the game."""
    protocol: str
    """Definition of the score; empty for games that have one alone."""
    measure: str
    """What is measured."""
    condition: str
    """``clean``, ``attack``, or ``noise`` of the same size."""
    norm: str
    """Name of the norm; empty for clean pictures."""
    eps: str
    """Epsilon as it was written, such as ``8/255``; empty for clean pictures."""
    budget: str
    """What epsilon is for: ``picture``, each image of a grid, or ``grid``, all of it; empty for clean pictures."""
    mean: float | None
    """Mean over pictures of the mean score of a picture's regions."""
    ci_low: float | None
    """Lower bound of the 95 % interval of ``mean``: pictures are drawn with replacement, 9,999 times."""
    ci_high: float | None
    """Upper bound of the same."""
    median: float | None
    """Median over all regions."""
    quartile_low: float | None
    """First quartile over all regions."""
    quartile_high: float | None
    """Third quartile over all regions."""
    floor: float | None
    """Mean of what a map without information scores: 1/n for grids of n cells."""
    ceiling: float | None
    """Mean of what an oracle scores under the same smoothing."""
    pictures: int
    """Number of grids or other pictures."""
    regions: int
    """Number of cells or other regions, each with a map of its own."""
    empty: int
    """Maps without any positive contribution; they have no score, unless the protocol gives them one."""
    not_finite: int
    """Maps with NaN or infinity; they have no score."""
    kept: int
    """Regions whose class the model still predicts, shown that part of the picture by itself."""
    lost: int
    """The others."""
    mean_kept: float | None
    """Mean score of the regions whose prediction is kept."""
    mean_lost: float | None
    """Mean score of those whose prediction is lost."""
    mean_size: float
    """Mean norm of the perturbations, to 4 significant digits."""
    kernel: int | None
    """Side of the smoothing window in pixels; empty where nothing is smoothed by the game."""
    own_grids: bool
    """Whether each model had grids of its own."""
    dataset: str
    """Name of the dataset."""
    subset: str
    """First 12 digits of the digest of the images that pictures were made of."""
    seed: int
    """Seed of everything drawn."""
    version: str
    """Version of this package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonRow:
    """A paired difference. Its fields are the columns of ``comparisons.csv``, in their order."""

    between: str
    """``conditions`` of one model and method, ``methods`` of one model, or ``models`` by one method (or each by its
    own, ``auto``)."""
    measure: str
    """What is measured."""
    first: str
    """Model, method and condition that are subtracted."""
    second: str
    """Those from which they are."""
    norm: str
    """Name of the norm; empty for clean pictures."""
    eps: str
    """Epsilon as it was written; empty for clean pictures."""
    difference: float
    """Mean over pictures of the second's mean score less the first's."""
    ci_low: float
    """Lower bound of its 95 % interval: pictures are drawn with replacement, with both scores."""
    ci_high: float
    """Upper bound of the same."""
    pictures: int
    """Pictures on which both have a score."""
    p: float
    """Two-sided, that the difference is 0: signs of the pictures' differences are drawn at random, 9,999 times; below
    about a thousandth, by the normal distribution of the same variance."""
    p_holm: float
    """The same, corrected by Holm over all rows of the file between the same kind of things."""
