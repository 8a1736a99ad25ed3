"""Does `sound` mean what a proof says? Networks and images whose robustness complete verifiers have settled.

    python benchmarks/known_answers.py FOLDER                      # the default command's attack and evidence
    python benchmarks/known_answers.py FOLDER --evidence full --only mnist

FOLDER holds pairs of NAME.onnx and NAME.npz: `images` float32 (n, 3, height, width) in [0, 1], `labels`, `epsilon`
(linf, of each image), `answer` (sat: a counterexample is known; unsat: proved robust; unknown), `wrong_classes` (how
many other classes the property allows), `layout`, `mean`, `std`: what the network takes. VNN-COMP's are of this kind.

For each network and epsilon it prints the images proved robust that were broken (0, or the judge is wrong), the images
proved breakable that were found, the row's trust, and whether a row that is too high says `sound`. One JSON line each.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence.trust import Judgement
from robustbench_bcos.bench.request import check_request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.models import LoadedModel, own_model
from robustbench_bcos.model_zoo.sources.onnx import read_onnx


class Laid(nn.Module):
    """A network that takes its input in a layout of its own."""

    def __init__(self, network: nn.Module, layout: str, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.layout = layout
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        grey = images.mean(dim=1, keepdim=True)
        laid = {
            "norm": lambda: (images - self.mean) / self.std,
            "nhwc": lambda: images.permute(0, 2, 3, 1),
            "mnist28": lambda: grey,
            "mnist784": lambda: grey.reshape(len(images), 784, 1),
        }
        logits: Tensor = self.network(laid[self.layout]())
        return logits.flatten(1)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What is known of one network at one epsilon, and what the tool found."""

    network: str
    epsilon: float
    images: int
    proved_robust: int
    proved_robust_broken: int
    proved_breakable: int
    found: int
    worst: int
    known_worst: int
    """Images that may be robust: right about, and no counterexample known."""
    trust: str
    reasons: str
    passes: int
    seconds: float

    @property
    def too_high(self) -> bool:
        return self.worst > self.known_worst

    @property
    def wrongly_sound(self) -> bool:
        return self.trust == "sound" and self.too_high


def problems(folder: Path, only: str) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    for file in sorted(file for file in folder.glob("*.npz") if only in file.name):
        with np.load(file, allow_pickle=False) as content:
            known = dict(content)
        shape = (1, -1, 1, 1)
        mean, std = (torch.as_tensor(known[name], dtype=torch.float32).reshape(shape) for name in ("mean", "std"))
        network = Laid(read_onnx(file.with_suffix(".onnx")), str(known["layout"]), mean, std)
        yield file.stem, network, known


def solve(name: str, network: nn.Module, known: dict[str, Any], epsilon: float, options: dict[str, Any]) -> Answers:
    """Attack the images of one epsilon as the default command does, and compare with what is proved."""
    chosen = np.isclose(known["epsilon"], epsilon, rtol=1e-5)
    images = torch.from_numpy(known["images"][chosen])
    labels = torch.from_numpy(known["labels"][chosen].astype(np.int64))
    answers, any_class = known["answer"][chosen], known["wrong_classes"][chosen] == 9
    classes = network(images[:1]).shape[1]
    config = make_config({"dataset": "memory", "norm": ("linf",), "eps": (repr(float(epsilon)),), **options})
    subset = EvalSubset.of(InMemory(images, labels, classes=classes))
    request = check_request(config, subset, [LoadedModel(own_model(name, freeze(network)))])
    began = time.perf_counter()
    with Store() as store:
        for _ in execute(request, store):
            pass
        (cell,) = request.cells
        judgement = Judgement(store, request.identity)
        trust = judgement.of(cell)
        broken = {row.image for row in store.verdicts(cell) if row.success} | judgement.broken_elsewhere(cell)
        clean = store.clean(cell.model)
        sums = store.sums(cell)
    right = [image for image in range(len(images)) if clean[image].correct]
    return Answers(
        network=name,
        epsilon=epsilon,
        images=len(images),
        proved_robust=int(((answers == "unsat") & any_class).sum()),
        proved_robust_broken=sum(answers[image] == "unsat" and bool(any_class[image]) for image in broken),
        proved_breakable=sum(answers[image] == "sat" for image in right),
        found=sum(answers[image] == "sat" for image in broken),
        worst=trust.worst_correct,
        known_worst=sum(answers[image] != "sat" and image not in broken for image in right),
        trust=trust.trust,
        reasons=trust.reasons,
        passes=sums.forward_passes + sums.backward_passes + trust.passes,
        seconds=time.perf_counter() - began,
    )


def main() -> None:
    """Print the table of known answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="part of the networks' names")
    parser.add_argument("--evidence", default="quick")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    options = {"evidence": given.evidence, "steps": (given.steps,), "explained": 0, "figures": False}
    rows = []
    for name, network, known in problems(given.folder, given.only):
        for epsilon in sorted(set(known["epsilon"].tolist())):
            rows.append(solve(name, network, known, epsilon, {**options, "skip_model_checks": True}))
            print(json.dumps(vars(rows[-1]), default=int), flush=True)
    columns = ["network", "epsilon", "images", "proved_robust", "proved_robust_broken", "proved_breakable", "found"]
    table = Table(*columns, "worst", "known_worst", "trust")
    for row in rows:
        shown = [getattr(row, column) for column in columns]
        table.add_row(*map(str, shown), str(row.worst), str(row.known_worst), f"{row.trust} {row.reasons}".strip())
    console = Console()
    console.print(table)
    total = {field: sum(getattr(row, field) for row in rows) for field in columns[3:]}
    console.print(f"proved robust, broken: {total['proved_robust_broken']} of {total['proved_robust']}")
    console.print(f"proved breakable, found: {total['found']} of {total['proved_breakable']}")
    console.print(f"rows sound and too high: {sum(row.wrongly_sound for row in rows)} of {len(rows)}")


if __name__ == "__main__":
    main()
