"""The parts of on_device.py: each measures one thing on a card, and says what was promised of it."""

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from overhead import TINY as NEARBY
from overhead import Bare
from overhead import carry_out as attack
from pairs import Claim, describe_machine, table_of, take_turns
from rich.console import Console
from subjects import make_own_run, make_run
from tabulate import tabulate

from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AddInverse, NoEncoding
from robustbench_bcos.model_zoo.models import own_model
from robustbench_bcos.training.recipes import RECIPES, Recipe
from robustbench_bcos.training.trainer import train

TARGET, COMPILED = 1.05, 0.9
MEBIBYTE = 2**20
TESTS = Path(__file__).parents[1] / "tests"


class Size(NamedTuple):
    """How much of everything."""

    architectures: tuple[str, ...]
    """Conventional and B-cos."""
    images: int
    steps: int
    pixels: int
    classes: int
    compiled: bool
    digits: int
    """Images of the digits zoo whose verdicts are compared."""
    epoch: int
    """Random images of the epoch."""
    trained: str
    pairs: int


FULL = Size(("resnet50", "bcos_resnet50"), 512, 20, 224, 1000, True, 100, 50_000, "bcos_resnet56", 3)
TINY = Size(("resnet20", "bcos_resnet20"), 4, 2, 32, 10, False, 8, 8, "bcos_resnet20", 1)


class Card(NamedTuple):
    """Where, and how much."""

    device: str
    size: Size

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.is_gpu else "cpu"

    @property
    def is_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def peak(self, work: Callable[[], object]) -> float:
        """Mebibytes that work needs at most; 0 where nobody counts."""
        if not self.is_gpu:
            work()
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device) / MEBIBYTE


def random_run(card: Card, architecture: str, **flags: object) -> Request:
    """A run on a random network and pictures, which are labelled as it sees them; nearly none is broken."""
    size, bcos = card.size, architecture.startswith("bcos_")
    network = build_architecture(architecture, in_channels=6 if bcos else 3, classes=size.classes, arguments={})
    initialise(network, torch.Generator().manual_seed(0))
    classifier = ImageClassifier(AddInverse() if bcos else NoEncoding(), freeze(network)).to(card.device)
    images = torch.rand((size.images, 3, size.pixels, size.pixels), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = torch.cat([classifier(part.to(card.device)).argmax(dim=1).cpu() for part in images.split(64)])
    asked = {"norm": ("l2",), "eps": (NEARBY,), "steps": (size.steps,), "device": card.device}
    models = {architecture: own_model(architecture, classifier)}
    return make_own_run(models, images, labels, size.classes, **(asked | flags))


def suite(card: Card) -> Iterator[Claim]:
    """The tests that need a GPU."""
    if not card.is_gpu or find_spec("pytest") is None:
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-shape-checks", "-m", "cuda"]
    done = subprocess.run([*command, str(TESTS / "test_cuda.py")], capture_output=True, text=True, check=False)
    print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    yield Claim("tests marked cuda", "exit status", done.returncode, 0, unit="", note=_last_line(done.stdout))


def verdicts(card: Card) -> Iterator[Claim]:
    """The digits zoo, attacked here and on the CPU."""
    found = []
    for device in ("cpu", card.device):
        options = Namespace(dataset="digits", data_dir=None, zoo=[])
        flags = {"norm": ("l2", "linf"), "eps": ("0.2",), "steps": (20,), "limit": card.size.digits, "device": device}
        request = make_run(options, **flags)
        with Store() as store:
            for _ in execute(request, store):
                pass
            found.append([row.success for cell in request.cells for row in store.verdicts(cell)])
    differ = sum(one != other for one, other in zip(*found, strict=True))
    yield Claim("verdicts of the digits zoo", "the CPU's", differ, 0, unit=f"of {len(found[0])} differ")


def attack_steps(card: Card) -> Iterator[Claim]:
    """A whole cell, beside its forward and backward passes alone, in every precision the card has."""
    for architecture in card.size.architectures:
        plain = random_run(card, architecture)
        bare = Bare(plain)
        ways: dict[str, tuple[Request, float | None]] = {"fp32": (plain, TARGET)}
        if card.is_gpu:
            ways["tf32"] = random_run(card, architecture, precision="tf32"), None
        ways["bf16"] = random_run(card, architecture, precision="bf16"), None
        if card.size.compiled and architecture == card.size.architectures[0]:
            ways["fp32, compiled"] = random_run(card, architecture, compile=True), COMPILED
        for way, (request, target) in ways.items():
            # Not timed: this warms both up, too.
            broken, _ = attack(request), bare()
            turns = take_turns(partial(attack, request), bare, card.size.pairs)
            claim = f"{_cell(card, architecture)}, {way}"
            yield Claim.of(claim, "its passes alone, fp32", turns, target)._replace(note=f"{broken} broken")
        peaks = card.peak(lambda run=plain: attack(run)), card.peak(bare)
        if card.is_gpu:
            claim = f"{_cell(card, architecture)}: peak memory"
            yield Claim(claim, "its passes alone", peaks[0] / peaks[1], None, note=f"{peaks[0]:.0f} MiB")


def explanations(card: Card) -> Iterator[Claim]:
    """Contribution maps of a B-cos network, in batches, beside its forward and backward pass."""
    request = random_run(card, card.size.architectures[-1])
    model = request.models.get(request.sources[0])
    batches = [batch.images.to(card.device) for batch in request.subset.batches(64)]

    def ours() -> float:
        return sum(float(explain(model.classifier, images).contributions.sum()) for images in batches)

    def passes() -> float:
        total = 0.0
        for images in batches:
            leaf = images.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model.attack_model(leaf).amax(dim=1).sum(), leaf)
            total += float(gradient.sum())
        return total

    ours(), passes()
    turns = take_turns(ours, passes, card.size.pairs)
    claim = Claim.of(f"explanations, {model.name}", "a forward and a backward pass, folded", turns, None)
    yield claim._replace(note=f"{len(request.subset) / min(turns.ours):.0f} a second")


def epoch(card: Card) -> Iterator[Claim]:
    """One natural epoch of training on random pictures of 32x32."""
    images = torch.rand((card.size.epoch, 3, 32, 32), generator=torch.Generator().manual_seed(2))
    labels = torch.arange(card.size.epoch) % 10
    recipe = RECIPES.load("cifar10jpeg-bcos-b2-resnet20").model_copy(
        update={"architecture": card.size.trained, "epochs": 1, "precision": "fp32", "half": False}
    )
    assert isinstance(recipe, Recipe)
    seconds: list[float] = []
    subset = EvalSubset.of(InMemory(images, labels, classes=10))
    train(recipe, subset, device=card.device, on_epoch=lambda done: seconds.append(done.seconds))
    rate = card.size.epoch / seconds[0]
    yield Claim(f"an epoch of {card.size.trained}", "", seconds[0], None, unit="s", note=f"{rate:.0f} images a second")


PARTS: tuple[Callable[[Card], Iterator[Claim]], ...] = (verdicts, suite, attack_steps, explanations, epoch)
"""The most important first."""


def carry_out(card: Card, out: Path, *, until: float) -> None:
    """All parts, as far as there is time; files are written anew after each of them.

    Args:
        card: where, and how much.
        out: folder of the files.
        until: the clock's reading after which no part begins.
    """
    claims: list[Claim] = []
    skipped: list[str] = []
    about: dict[str, Any] = {**describe_machine(), "device": card.name, "torch_cuda": torch.version.cuda}
    for part in PARTS:
        name = part.__name__
        if time.perf_counter() > until:
            skipped.append(f"{name}: no time was left")
            continue
        with _said(name, skipped):
            for claim in part(card):
                claims.append(claim)
                _write(out, about, claims, skipped)
    _write(out, about, claims, skipped)
    Console(width=150).print(table_of(claims, "Too small to quote" if card.size is TINY else card.name))
    for line in skipped:
        print(line)


@contextmanager
def _said(name: str, skipped: list[str]) -> Iterator[None]:
    """A part that fails is named, and the others go on: the card may not be lent twice."""
    try:
        yield
    except Exception as error:
        skipped.append(f"{name}: {type(error).__name__}: {error}")


def _write(out: Path, about: dict[str, Any], claims: list[Claim], skipped: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    found = {**about, "claims": [claim._asdict() for claim in claims], "skipped": skipped}
    (out / "speed-gpu.json").write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    rows = [
        {
            "work": claim.claim,
            "against": claim.peer,
            "measured": f"{claim.value:.3g} {claim.unit.removeprefix('ratio')}".strip(),
            "of all pairs": "" if claim.spread is None else f"{claim.spread[0]:.3g} to {claim.spread[1]:.3g}",
            "target": "" if claim.target is None else f"{claim.target:g}",
            "held": {None: "", True: "yes", False: "no"}[claim.held],
            "note": claim.note,
        }
        for claim in claims
    ]
    heading = f"{about['device']}, torch {about['versions']['torch']}, CUDA {about['torch_cuda']}"
    lines = [heading, "", tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True), ""]
    lines += [f"Not measured: {line}" for line in skipped]
    (out / "speed-gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(card: Card, architecture: str) -> str:
    size = card.size
    return f"{architecture}, {size.images} images of {size.pixels}x{size.pixels}, {size.steps} steps"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
