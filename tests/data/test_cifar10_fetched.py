"""CIFAR-10 from a server: an archive of the original form, at a thousandth of its size."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.datasets.cifar10 import Cifar10
from robustbench_bcos.data.opening import open_dataset
from tests.loopback import Site, served

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def archive() -> tuple[bytes, dict[str, str]]:
    """The archive, and the digest of each file in it."""
    pixels = np.zeros((3, 3 * 32 * 32), dtype=np.uint8)
    files = {name: pickle.dumps({"data": pixels, "labels": [1, 2, 3]}) for name in BATCHES}
    files["batches.meta"] = pickle.dumps({"label_names": NAMES})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue(), {name: hashlib.md5(content).hexdigest() for name, content in files.items()}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    content, digests = archive()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[name, digests[name]] for name in BATCHES[:-1]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digests["batches.meta"]})
    with served(Site(content)) as one:
        monkeypatch.setattr(Cifar10, "url", one.url)
        yield one


def fetch(root: Path) -> Path:
    return Cifar10.fetch(root, lambda done, total: None, lambda: None)


def test_cifar10_is_fetched_unpacked_and_asked_for_once(tmp_path: Path, site: Site) -> None:
    root = tmp_path / "data/cifar"
    assert fetch(root) == root / "cifar-10-batches-py"
    assert open_dataset("cifar10", "test", data_dir=root).labels == [1, 2, 3]
    fetch(root)
    assert len(site.asked) == 1


def test_an_archive_that_is_there_is_unpacked_without_a_connection(tmp_path: Path, site: Site) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(site.content)
    fetch(tmp_path)
    assert open_dataset("cifar10", "train", data_dir=tmp_path).labels == 5 * [1, 2, 3]
    assert site.asked == []


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-10-batches-py/test_batch"])
def test_nothing_is_unpacked_through_a_link(tmp_path: Path, site: Site, name: str) -> None:
    root, precious = tmp_path / "data", tmp_path / "precious"
    (root / name).parent.mkdir(parents=True)
    precious.mkdir() if "/" not in name else precious.write_text("precious")
    (root / name).symlink_to(precious)
    with pytest.raises(RequestError, match=f"{name} is a link, and nothing is written through links"):
        fetch(root)
    assert list(precious.iterdir()) == [] if precious.is_dir() else precious.read_text() == "precious"


def test_wrong_bytes_are_refused_and_nothing_is_kept(tmp_path: Path, site: Site) -> None:
    site.content = site.content[::-1]
    with pytest.raises(
        RequestError, match=r"has not the published MD5 [0-9a-f]{32}: nothing is kept; try again later$"
    ):
        fetch(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} <= {"cifar-10-python.tar.gz.lock"}


def test_a_machine_without_a_connection_is_told_what_to_put_where(tmp_path: Path, site: Site) -> None:
    site.statuses = [404]
    with pytest.raises(RequestError, match=r"put it at .*/cifar-10-python\.tar\.gz$"):
        fetch(tmp_path)


def test_the_archive_is_where_torchvision_has_it() -> None:
    assert Cifar10.url == CIFAR10.url


@pytest.mark.parametrize("name", [name for name in DATASETS if not DATASETS[name].url])
def test_a_dataset_that_cannot_be_fetched_has_its_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"^{name}.*: .*run with") as caught:
        DATASETS[name].fetch(tmp_path, lambda done, total: None, lambda: None)
    assert "\n" not in str(caught.value)
