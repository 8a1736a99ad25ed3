"""How the time of a run grows with images, steps, epsilons and models: linearly or better.

    python benchmarks/growth.py --plot docs/images/growth.png

An adversarially trained network, so that most images are attacked to the end; one thing grows while the others stay.
Points take turns, the median of the rounds counts, and the slope of a line through them in log-log is how the time
grows: 1 is linear. Several epsilons are one run, the smallest first, as are several models, which are copies
of one.
"""

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from pairs import Claim, make_parser, parse, publish
from subjects import Attacked, add_options, find_model, make_own_run, right_images

from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.reports.style import lines, styled

TARGET = 1.05
"""Of a slope: what a clock cannot tell from 1."""

ROUNDS = 3


class Size(NamedTuple):
    """Of a run."""

    images: int = 256
    steps: int = 20
    epsilons: int = 1
    models: int = 1


GROWTH = {
    "images": [Size(images=100 * factor) for factor in (1, 2, 5, 10)],
    "steps": [Size(steps=10 * factor) for factor in (1, 2, 5, 10)],
    "epsilons": [Size(epsilons=count) for count in (1, 2, 3, 6)],
    "models": [Size(models=count) for count in (1, 2, 3, 4)],
}
SMALL = {
    "images": [Size(images=4 * factor, steps=2) for factor in (1, 10)],
    "steps": [Size(images=8, steps=factor) for factor in (1, 10)],
    "epsilons": [Size(images=8, steps=2, epsilons=count) for count in (1, 6)],
    "models": [Size(images=8, steps=2, models=count) for count in (1, 4)],
}


class Growth(NamedTuple):
    """How one thing's growth is followed by the time's."""

    factors: list[float]
    seconds: list[float]

    @property
    def slope(self) -> float:
        return float(np.polyfit(np.log(self.factors), np.log(self.seconds), 1)[0])


def make_run(attacked: Attacked, size: Size) -> Request:
    models = {f"copy-{number}": attacked.model for number in range(size.models)}
    eps = tuple(f"{0.1 * (number + 1):.1f}" for number in range(size.epsilons))
    images, labels = attacked.images[: size.images], attacked.labels[: size.images]
    classes = int(attacked.labels.max()) + 1
    return make_own_run(models, images, labels, classes, norm=("l2",), eps=eps, steps=(size.steps,))


def carry_out(request: Request) -> float:
    """Seconds."""
    began = time.perf_counter()
    with Store() as store:
        for _ in execute(request, store):
            pass
    return time.perf_counter() - began


def measure(attacked: Attacked, sizes: dict[str, list[Size]], rounds: int) -> dict[str, Growth]:
    requests = {(what, size): make_run(attacked, size) for what, points in sizes.items() for size in points}
    carry_out(next(iter(requests.values())))
    taken: dict[tuple[str, Size], list[float]] = {point: [] for point in requests}
    for _ in range(rounds):
        for point, request in requests.items():
            taken[point].append(carry_out(request))
    found = {}
    for what, points in sizes.items():
        amounts = [getattr(size, what) for size in points]
        seconds = [statistics.median(taken[what, size]) for size in points]
        found[what] = Growth([amount / amounts[0] for amount in amounts], seconds)
    return found


def draw(found: dict[str, Growth], file: Path) -> None:
    with styled():
        figure, axes = plt.subplots(figsize=(3.4, 3.2), layout="constrained")
        most = max(max(growth.factors) for growth in found.values())
        axes.loglog([1, most], [1, most], color="0.6", linewidth=1, label="linear")
        for what, style in lines(list(found)).items():
            growth = found[what]
            relative = [seconds / growth.seconds[0] for seconds in growth.seconds]
            axes.loglog(growth.factors, relative, **style._asdict(), label=f"{what} (slope {growth.slope:.2f})")
        ticks = [1, 2, 3, 5, 10]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, labels=map(str, ticks))
            axis.set_minor_locator(plt.NullLocator())
        axes.set(xlabel="so many times as much", ylabel="takes so many times as long", aspect="equal")
        axes.legend()
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Software": None})


def claims_of(found: dict[str, Growth]) -> list[Claim]:
    claims = []
    for what, growth in found.items():
        times = growth.seconds[-1] / growth.seconds[0]
        note = f"{growth.factors[-1]:g} times as many take {times:.2f} times as long"
        claims.append(Claim(f"time by {what}", "linear growth", growth.slope, TARGET, unit="slope", note=note))
    return claims


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--model", default="digits-adv-l2")
    parser.add_argument("--plot", type=Path, help="file of a figure")
    options = parse(parser)
    torch.set_num_threads(options.threads)
    sizes, rounds = (SMALL, 1) if options.quick else (GROWTH, ROUNDS)
    most = max(size.images for points in sizes.values() for size in points)
    found = measure(right_images(find_model(options.model, options), options, most), sizes, rounds)
    if options.plot is not None:
        draw(found, options.plot)
    publish("growth", claims_of(found), options)


if __name__ == "__main__":
    main()
