"""Weights from a server into the cache, and from the cache into a model."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import tomli_w
import torch

from robustbench_bcos.core import download as transport
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cache import DigestRecord
from robustbench_bcos.model_zoo.cards import Entry, ModelSpec, Zoo
from robustbench_bcos.model_zoo.classifier import build_classifier
from robustbench_bcos.model_zoo.fetching import fetch_weights
from robustbench_bcos.model_zoo.models import ZooModel, load_model
from tests.drafts import BCOS
from tests.loopback import Site, served
from tests.refusals import refused

DRAFT = BCOS | {"name": "theirs"}
PUBLISHED = {"whole": 64, "prefix": 10, "nothing": None}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUSTBENCH_BCOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transport, "PAUSE_SECONDS", 0.0)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A bare state dict of the card's network."""
    file = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(build_classifier(ModelSpec.model_validate(DRAFT)).network.state_dict(), file)
    return file.read_bytes()


@pytest.fixture
def site(weights: bytes) -> Iterator[Site]:
    with served(Site(weights)) as one:
        yield one


def entry(tmp_path: Path, site: Site, published: str = "prefix", **changes: Any) -> Entry:
    digits = PUBLISHED[published]
    spec: dict[str, Any] = {"file": "theirs.pth", "url": site.url, "format": "state_dict"}
    if digits is not None:
        spec["sha256"] = hashlib.sha256(site.content).hexdigest()[:digits]
    folder = tmp_path / "zoo"
    folder.mkdir(exist_ok=True)
    (folder / "theirs.toml").write_text(tomli_w.dumps(DRAFT | {"licence": "CC0-1.0", "weights": spec | changes}))
    return Zoo([folder])["theirs"]


def fetch(one: Entry) -> str:
    return fetch_weights(one, lambda done, total: None, lambda: None)


def refusal(one: Entry) -> str:
    said = refused(fetch, one)
    assert not one.weights_file.exists()
    return said


@pytest.mark.parametrize("published", PUBLISHED)
def test_what_is_fetched_is_loaded_by_name_and_asked_for_once(
    tmp_path: Path, cache: Path, site: Site, weights: bytes, published: str
) -> None:
    one = entry(tmp_path, site, published)
    assert not one.is_here
    whole = hashlib.sha256(weights).hexdigest()
    assert fetch(one) == whole
    assert one.is_here
    assert one.weights_file == cache / "weights/theirs/theirs.pth"
    assert one.weights_file.read_bytes() == weights
    assert DigestRecord.of(one.weights_file) == DigestRecord(site.url, whole)
    assert fetch(one) == whole
    assert len(site.asked) == 1
    model = ZooModel(one).load()
    assert model.weights_sha256 == whole
    again = load_model("theirs", zoo=tmp_path / "zoo")
    images = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(images), model.classifier(images))
    # What is left beside them is a lock, which nobody holds.
    assert {file.name for file in one.weights_file.parent.iterdir()} <= {
        "theirs.pth",
        "theirs.pth.json",
        "theirs.pth.lock",
    }


def test_a_model_whose_weights_are_not_here_says_how_to_get_them(tmp_path: Path, site: Site) -> None:
    one = entry(tmp_path, site)
    with pytest.raises(RequestError) as caught:
        ZooModel(one).load()
    assert str(caught.value) == (
        f"the weights of 'theirs' are not here: `fetch theirs` gets them from {site.url}; without a connection, put "
        f"that file at {one.weights_file}"
    )
    assert site.asked == []


@pytest.mark.parametrize("published", PUBLISHED)
def test_a_file_that_is_put_there_by_hand_serves(tmp_path: Path, site: Site, weights: bytes, published: str) -> None:
    one = entry(tmp_path, site, published)
    one.weights_file.parent.mkdir(parents=True)
    one.weights_file.write_bytes(weights)
    assert ZooModel(one).load().weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert DigestRecord.of(one.weights_file) is not None
    one.weights_file.write_bytes(weights + b" ")
    with pytest.raises(RequestError, match=r"which does not begin with|and on first use it was"):
        ZooModel(one).load()
    assert site.asked == []


@pytest.mark.parametrize("published", ["whole", "prefix"])
def test_wrong_bytes_are_refused_and_nothing_is_kept(tmp_path: Path, site: Site, published: str) -> None:
    one = entry(tmp_path, site, published)
    site.content = site.content[::-1]
    said = refusal(one)
    assert said.startswith(f"{site.url} has SHA-256 {hashlib.sha256(site.content).hexdigest()}, which does not begin")
    assert "nothing is kept" in said
    assert {file.name for file in one.weights_file.parent.iterdir()} <= {"theirs.pth.lock"}


def test_other_bytes_than_those_of_the_first_use_are_refused(tmp_path: Path, site: Site, weights: bytes) -> None:
    one = entry(tmp_path, site, "nothing")
    fetch(one)
    one.weights_file.unlink()
    site.content = site.content[::-1]
    assert f"and on first use it was {hashlib.sha256(weights).hexdigest()}: nothing is kept" in refusal(one)
    DigestRecord.file_of(one.weights_file).unlink()
    assert fetch(one) == hashlib.sha256(weights[::-1]).hexdigest()


def test_another_size_than_the_published_is_refused(tmp_path: Path, site: Site) -> None:
    assert "are published: nothing is kept" in refusal(entry(tmp_path, site, "nothing", size=5))


def test_two_at_once_ask_the_server_once(tmp_path: Path, site: Site) -> None:
    one, start, found = entry(tmp_path, site), Barrier(2), list[str]()
    site.pause = 0.001

    def run() -> None:
        start.wait()
        found.append(fetch(one))

    threads = [Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 2 * [hashlib.sha256(site.content).hexdigest()]
    assert len(site.asked) == 1


def test_a_process_that_is_killed_leaves_a_part_that_the_next_continues(tmp_path: Path, site: Site) -> None:
    one = entry(tmp_path, site)
    site.pause = 0.01
    program = (
        "import sys; from pathlib import Path; from robustbench_bcos.model_zoo.cards import Zoo\n"
        "from robustbench_bcos.core import download; download.CHUNK = 1024\n"
        "from robustbench_bcos.model_zoo.fetching import fetch_weights\n"
        "told = lambda done, total: print(done, flush=True)\n"
        "fetch_weights(Zoo([Path(sys.argv[1])])['theirs'], told, lambda: None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "zoo")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 20_000:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not one.weights_file.exists()
    part = one.weights_file.with_name("theirs.pth.partial").stat().st_size
    assert 20_000 <= part < len(site.content)
    site.pause = 0
    assert fetch(one) == hashlib.sha256(site.content).hexdigest()
    assert site.asked[-1]["Range"] == f"bytes={part}-"


def test_a_card_beside_its_weights_needs_no_fetching() -> None:
    one = Zoo()["digits-natural"]
    assert one.is_here
    assert fetch(one) == one.card.weights.sha256
