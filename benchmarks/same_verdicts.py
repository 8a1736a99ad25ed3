"""Does another build of the package give every image the same verdict?

    python benchmarks/same_verdicts.py --old DIR    # beside the package in that folder: a clone of version 0.2.0, say
    python benchmarks/same_verdicts.py --old DIR --quick    # one model and few images; quote nothing

Seven digits models in l2 and linf: PGD from the image and Auto-PGD from a random start, 20 and 100 steps each, and
Square with its random moves. Every cell is a run of its own in each build, so that no verdict is taken over from
another cell, and without evidence, whose draws changed once. A row counts the images that one build calls robust and
the other does not; images that the model misclassifies count as broken. The exit status is 1 if there is one.

Random starts and moves follow from the seed, the image and the name of the attack, and are the same in both. The order
in which numbers are added may differ, so an image that comes within a rounding of the boundary may differ.
"""

import csv
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from builds import HERE, SEVEN, command
from pairs import Claim, make_parser, parse, publish

THREATS = (("l2", "0.5"), ("linf", "0.1"))


class Searched(NamedTuple):
    """How images are attacked, in words of the command line that both builds have."""

    name: str
    options: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([self.name, *self.options]).replace("--", "")


SEARCHES = (
    *(Searched(name, ("--steps", steps)) for name in ("pgd", "apgd") for steps in ("20", "100")),
    Searched("square", ("--queries", "1000")),
)


def broken(run: Path) -> dict[str, dict[int, bool]]:
    """For each model and each image of a run with one cell a model, whether it is broken."""
    with closing(sqlite3.connect(run / "run.sqlite")) as database:
        clean = database.execute("SELECT model, image, label, prediction FROM clean").fetchall()
        verdicts = database.execute("SELECT cell, image, prediction FROM verdicts").fetchall()
    found: dict[str, dict[int, bool]] = {}
    labels = {}
    for model, image, label, prediction in clean:
        labels[model, image] = label
        found.setdefault(model, {})[image] = label != prediction
    for cell, image, prediction in verdicts:
        # A cell begins with the name of its model in every version.
        model = cell.split()[0]
        found[model][image] |= labels[model, image] != prediction
    return found


def version_of(run: Path) -> str:
    """Of the build that carried it out, which shows that these are two."""
    with (run / "results.csv").open(encoding="utf-8", newline="") as lines:
        return next(csv.DictReader(lines))["version"]


def compared(old: Path, place: Path, searched: Searched, threat: tuple[str, str], asked: list[str]) -> list[Claim]:
    """One row a model."""
    norm, eps = threat
    cell = ["--norm", norm, "--eps", eps, "--attack", searched.name, *searched.options]
    runs = []
    for number, build in enumerate((HERE, old)):
        run = place / f"{number}-{norm}-{'-'.join(searched.options[1:])}-{searched.name}"
        command(build, "run", *asked, *cell, "--evidence", "off", "--no-figures", "--quiet", "--out", str(run))
        runs.append(run)
    found = ours, theirs = [broken(run) for run in runs]
    assert ours.keys() == theirs.keys()
    rows = []
    for model in ours:
        assert ours[model].keys() == theirs[model].keys()
        differ = [image for image, said in ours[model].items() if said != theirs[model][image]]
        robust = [list(of[model].values()).count(False) for of in found]
        note = f"{robust[0]:,} / {robust[1]:,} of {len(ours[model]):,} images robust"
        note += f"; image {', '.join(map(str, differ[:5]))}" if differ else ""
        what = f"{model}, {norm} {eps}, {searched}"
        rows.append(Claim(what, version_of(runs[1]), len(differ), 0, unit="images", note=note))
    return rows


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--old", type=Path, required=True, metavar="DIR", help="folder of the other package")
    parser.add_argument("--limit", type=int, help="images, balanced over classes; by default all")
    options = parse(parser)
    models = ("natural",) if options.quick else SEVEN
    asked = [option for name in models for option in ("--model", f"digits-{name}")]
    limit = 20 if options.quick else options.limit
    asked += ["--limit", str(limit)] if limit else []
    with tempfile.TemporaryDirectory() as name:
        claims = [
            claim
            for threat in THREATS
            for searched in SEARCHES
            for claim in compared(options.old, Path(name), searched, threat, asked)
        ]
    publish("same_verdicts", claims, options)
    differing = sum(int(claim.value) for claim in claims)
    if differing:
        raise SystemExit(f"{differing:,} verdicts differ")


if __name__ == "__main__":
    main()
