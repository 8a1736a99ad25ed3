"""What a run certifies of smoothed networks, as tables. Nothing here is about the networks that were attacked."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import TYPE_CHECKING

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.bench.identity import RunIdentity, SmoothedNetworks
from robustbench_bcos.bench.rows import SmoothedRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.certificates import CERTIFICATES
from robustbench_bcos.core.prediction import NO_CLASS
from robustbench_bcos.core.statistics import Interval, bootstrap, wilson

if TYPE_CHECKING:
    import pandas as pd

RADII = ("0", "0.05", "0.1", "0.25", "0.5", "0.75", "1", "1.25", "1.5")
"""Those of tables in papers, in l2, and two small ones, within which maps are certified."""


@dataclass(frozen=True, kw_only=True)
class SmoothedRecord:
    """What is certified of a smoothed network within one radius. Its fields are the columns of ``smoothed.csv``."""

    model: str
    """Name of the model that is smoothed."""
    certificate: str
    """Name of the certificate."""
    certifies: str
    """Of what it is a lower bound; never of the network that was attacked."""
    sigma: float
    """Deviation of the Gaussian noise, in units of the pixel range."""
    draws: int
    """Noisy images that each bound is made from."""
    alpha: float
    """Probability that what is certified of an image is wrong, at most."""
    norm: str
    """Norm of the perturbation: those of the run, and l2 for the radii that papers have."""
    eps: str
    """Its epsilon as it was written."""
    radius_l2: float
    """The l2 radius that holds every such perturbation, within which is certified."""
    images: int
    """Images, all of the run."""
    smoothed_correct: float | None
    """Share of them that the smoothed classifier is right about, if it does not abstain; empty where no class is
    certified."""
    smoothed_abstained: float | None
    """Share of them that it abstains from."""
    smoothed_certified: float
    """Lower bound, of the smoothed network: the share of images for which it is right and stays so within the radius
    (certified accuracy), or the mean share of an image's largest contributions that stay among the largest."""
    smoothed_certified_low: float
    """Lower end of its 95 % interval over images: Wilson's of a share, a bootstrap of a mean."""
    smoothed_certified_high: float
    """Upper end."""
    certifiable: bool
    """Whether so many draws can certify the radius at all; where not, a 0 is due to them."""
    seed: int
    """Of the noise."""


def make_smoothed(store: Store, identity: RunIdentity) -> "pd.DataFrame":
    """A row for each model, certificate, sigma and radius whose images are all certified, in the order of the plan."""
    # Not above: an attack does not wait for tables.
    import pandas as pd

    records = [asdict(record) for record in _records(store, identity)]
    return pd.DataFrame(records, columns=[declared.name for declared in fields(SmoothedRecord)])


def make_smoothed_images(store: Store, identity: RunIdentity) -> "pd.DataFrame":
    """What is certified of each image."""
    import pandas as pd

    rows = [
        row.to_columns()
        for model in dict.fromkeys(cell.model for cell in identity.cells)
        for row in store.select(SmoothedRow, model=model)
    ]
    table = pd.DataFrame(rows, columns=list(SmoothedRow.columns()))
    return table.astype({"smoothed_prediction": "Int64"})


def _records(store: Store, identity: RunIdentity) -> Iterator[SmoothedRecord]:
    asked = identity.smoothed
    if asked is None:
        return
    for model in dict.fromkeys(cell.model for cell in identity.cells):
        labels = {image: row.label for image, row in store.clean(model).items()}
        for name in asked.certificates:
            for sigma in asked.sigmas:
                images: dict[int, list[SmoothedRow]] = {}
                for row in store.select(SmoothedRow, model=model, certificate=name, sigma=sigma):
                    images.setdefault(row.image, []).append(row)
                if len(images) == identity.images:
                    yield from _of_radii(identity, asked, list(images.values()), labels)


def _of_radii(
    identity: RunIdentity, asked: SmoothedNetworks, images: Sequence[Sequence[SmoothedRow]], labels: dict[int, int]
) -> Iterator[SmoothedRecord]:
    first = images[0][0]
    predictions = {rows[0].image: rows[0].smoothed_prediction for rows in images}
    of_classes = first.smoothed_prediction is not None
    right = [not of_classes or predictions[rows[0].image] == labels[rows[0].image] for rows in images]
    abstained = [prediction == NO_CLASS for prediction in predictions.values()]
    certificate = CERTIFICATES[first.certificate]
    radii = {
        (threat.norm, threat.text): threat.radius * NORMS[threat.norm].longest(asked.shape) if threat.radius else 0.0
        for threat in (cell.threat for cell in identity.cells)
    }
    largest = certificate.largest(asked.draws, asked.alpha, math.prod(asked.shape[-2:])) * first.sigma
    radii |= {(certificate.norm, text): float(text) for text in RADII}
    for (norm, eps), radius in sorted(radii.items(), key=lambda item: item[1]):
        shares = [_share(rows, radius) * ok for rows, ok in zip(images, right, strict=True)]
        low, high = _interval(shares, of_classes=of_classes)
        yield SmoothedRecord(
            model=first.model,
            certificate=first.certificate,
            certifies=certificate.certifies,
            sigma=first.sigma,
            draws=asked.draws,
            alpha=asked.alpha,
            norm=norm,
            eps=eps,
            radius_l2=radius,
            images=len(images),
            smoothed_correct=fmean(right) if of_classes else None,
            smoothed_abstained=fmean(abstained) if of_classes else None,
            smoothed_certified=fmean(shares),
            smoothed_certified_low=low,
            smoothed_certified_high=high,
            certifiable=radius <= largest,
            seed=identity.seed,
        )


def _share(rows: Sequence[SmoothedRow], radius: float) -> float:
    """Of the parts of an image's statement, those that hold within a radius."""
    return fmean(row.smoothed_radius is not None and row.smoothed_radius >= radius for row in rows)


def _interval(shares: Sequence[float], *, of_classes: bool) -> Interval:
    return wilson(int(sum(shares)), len(shares)) if of_classes else bootstrap(shares, seed=0)
