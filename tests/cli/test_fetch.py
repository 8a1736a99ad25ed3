"""``fetch``: names and globs into the cache, one sentence for each cause of failure."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from robustbench_bcos.cli import fetch as verb
from robustbench_bcos.core import download as transport
from robustbench_bcos.data.datasets.cifar10 import Cifar10
from tests.cli.command_line import call, refusal, succeed
from tests.data.imagenet_tree import write_classes
from tests.drafts import NATURAL
from tests.loopback import Site, served


@pytest.fixture(autouse=True)
def cache(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUSTBENCH_BCOS_CACHE", str(here / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transport, "PAUSE_SECONDS", 0.0)
    return here / "cache"


@pytest.fixture(scope="module")
def checkpoint(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(load_file(str(tiny_zoo / "tiny-natural.safetensors")), file)
    return file.read_bytes()


@pytest.fixture
def site(checkpoint: bytes) -> Iterator[Site]:
    with served(Site(checkpoint)) as one:
        yield one


def card(name: str, site: Site, **changes: Any) -> None:
    """A card of a model on the server, in the working folder's ``theirs``."""
    Path("theirs").mkdir(exist_ok=True)
    published = {"sha256": hashlib.sha256(site.content).hexdigest()[:10]}
    values = NATURAL | {
        "name": name,
        "licence": "CC0-1.0",
        "weights": {"file": "w.pth", "url": site.url, "format": "state_dict", **published} | changes,
        "published": {"top1": 91.25, "parameters": 0.07},
    }
    Path(f"theirs/{name}.toml").write_text(tomli_w.dumps(values), encoding="utf-8")


def test_names_and_globs_are_fetched_and_run(site: Site, cache: Path) -> None:
    for name in ("net-a", "net-b", "other"):
        card(name, site)
    run = ["run", "--zoo", "theirs", "--model", "net-a", "--limit", 4, "--steps", 1, "--no-figures"]
    assert "the weights of 'net-a' are not here: `fetch net-a` gets them from" in refusal(*run)
    outcome = call("fetch", "net-*", "net-a", "--zoo", "theirs")
    # Nobody watches a bar in a pipe.
    assert (outcome.code, outcome.err) == (0, "")
    out = outcome.out
    whole = hashlib.sha256(site.content).hexdigest()
    lines = [f"{name} fetched: {cache}/weights/{name}/w.pth, " for name in ("net-a", "net-b")]
    assert [line.partition("w.pth, ")[0] + "w.pth, " for line in out.splitlines()] == lines
    assert all(f"SHA-256 {whole}, as published" in line for line in out.splitlines())
    assert out == succeed("fetch", "net-*", "--zoo", "theirs").replace(" was here: ", " fetched: ")
    assert len(site.asked) == 2
    assert "net-a" in succeed(*run)
    assert not (cache / "weights/other").exists()


def test_a_digest_that_nobody_published_is_said_to_be_recorded(site: Site) -> None:
    card("net-a", site)
    text = Path("theirs/net-a.toml").read_text()
    Path("theirs/net-a.toml").write_text("".join(line for line in text.splitlines(True) if "sha256" not in line))
    assert ", which is recorded, because none is published\n" in succeed("fetch", "net-a", "--zoo", "theirs")


def test_a_dry_run_says_what_from_where_how_much_and_where_to(site: Site, cache: Path) -> None:
    card("net-a", site)
    card("net-b", site, size=12_345_678)
    card("net-c", site, format="lightning")
    out = succeed("fetch", "net-*", "--zoo", "theirs", "--dry-run")
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│net")}
    assert "about 280.0 kB" in rows["net-a"]
    assert "12.3 MB" in rows["net-b"]
    assert "unknown" in rows["net-c"]
    assert all(site.url in row for row in rows.values())
    assert site.asked == []
    assert not cache.exists()
    succeed("fetch", "net-a", "--zoo", "theirs")
    assert ", is here" in succeed("fetch", "net-a", "--zoo", "theirs", "--dry-run")


def test_a_run_without_models_takes_those_that_are_here(site: Site) -> None:
    write_classes(Path("mine"), ["cat", "dog"], images=2)
    for name in ("net-a", "net-c", "net-d", "net-e"):
        card(name, site)
        file = Path(f"theirs/{name}.toml")
        file.write_text(file.read_text().replace('dataset = "digits"', 'dataset = "folder:mine"'))
    run = ["run", "--zoo", "theirs", "--eps", 0.5, "--no-figures", "--dataset"]
    # Data that are not here are told before weights that are not.
    assert refusal(*run, "cifar10", "--data-dir", "nothing").startswith("dataset cifar10 is not in data_dir")
    assert refusal(*run, "folder:mine") == (
        "the weights of no model for --dataset folder:mine are here: `fetch NAME` gets those of net-a, net-c, net-d "
        "and 1 more, or name others with --model"
    )
    succeed("fetch", "net-a", "--zoo", "theirs")
    # It is taken, and judged by its own answers.
    assert refusal(*run, "folder:mine", "--resize", 8, "--crop", 8).startswith("model 'net-a' gives outputs of shape")
    # Of digits, net-b is not here and is left out.
    card("net-b", site)
    out = succeed("run", "--zoo", "theirs", "--limit", 4, "--steps", 1, "--dry-run", "--no-figures")
    assert "net-b" not in out
    assert "digits-natural" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "fetch needs a name: official-bcos-resnet50, 'madry-*' or cifar10, say"),
        (["oficial-bcos-resnet50"], "unknown model 'oficial-bcos-resnet50': did you mean 'official-bcos-resnet50'?"),
        (["nothing-*"], "unknown model 'nothing-*'"),
        (["imagenet"], "imagenet cannot be fetched, because its terms must be accepted by a person: get ILSVRC2012"),
        (["digits"], "digits come with scikit-learn and need not be fetched: run without --dataset"),
        (["cifar10"], "fetch cifar10 needs --data-dir DIR, the folder that"),
        (["net-a", "--zoo", "nothere"], "--zoo nothere is not a folder"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(arguments: list[str], said: str) -> None:
    assert refusal("fetch", *arguments).startswith(said)


def test_every_failure_of_a_server_is_one_sentence(site: Site, cache: Path) -> None:
    card("net-a", site)
    site.statuses = [404]
    assert "127.0.0.1 answers 404 Not Found to " in refusal("fetch", "net-a", "--zoo", "theirs")
    site.dies_after = 9 * [0]
    assert refusal("fetch", "net-a", "--zoo", "theirs").endswith("repeat the command to continue")
    site.dies_after, site.content = [], site.content[::-1]
    assert ": nothing is kept; try again later" in refusal("fetch", "net-a", "--zoo", "theirs")
    site.kind = "text/html"
    assert "is a web page and no file of weights" in refusal("fetch", "net-a", "--zoo", "theirs")
    assert not (cache / "weights/net-a/w.pth").exists()
    shutil.rmtree(cache)
    cache.touch()
    said = refusal("fetch", "net-a", "--zoo", "theirs")
    assert said.endswith(": set ROBUSTBENCH_BCOS_CACHE to a folder that can be")
    assert said.startswith(f"{cache}/weights/net-a cannot be written (")


def test_an_interruption_says_that_the_same_command_continues(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    card("net-a", site)
    report = verb._Watch.report
    monkeypatch.setattr(transport, "CHUNK", 1 << 14)

    def stop(watch: Any, done: int, total: int | None) -> None:
        report(watch, done, total)
        if done > 100_000:
            raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(verb._Watch, "report", stop)
        outcome = call("fetch", "net-a", "--zoo", "theirs")
    assert outcome.code == 130
    assert outcome.err == "interrupted after 114,688 bytes of net-a; repeat the same command to continue\n"
    succeed("fetch", "net-a", "--zoo", "theirs")
    assert site.asked[-1]["Range"] == "bytes=114688-"


def test_cifar10_goes_where_a_run_looks_for_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(root: Path, *_: object) -> Path:
        return root / "cifar-10-batches-py"

    monkeypatch.setattr(Cifar10, "fetch", fetch)
    assert succeed("fetch", "cifar10", "--data-dir", "d") == (
        "cifar10 is in d/cifar-10-batches-py; run with --dataset cifar10 --data-dir d\n"
    )
    out = succeed("fetch", "cifar10", "--data-dir", "d", "--dry-run")
    assert "https://www.cs.toronto.edu/" in out
    assert "d/cifar-10-batches-py" in out
