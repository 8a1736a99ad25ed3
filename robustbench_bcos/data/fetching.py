"""Data sets from the web, as far as they may be had without asking."""

from collections.abc import Callable
from pathlib import Path

from robustbench_bcos.core.download import Report, discard, download, held
from robustbench_bcos.core.errors import RequestError

NOT_FETCHED = {
    "digits": "digits come with scikit-learn and need not be fetched: run without --dataset",
    "imagenet": (
        "imagenet cannot be fetched, because its terms must be accepted by a person: get ILSVRC2012_img_val.tar from "
        "https://image-net.org/download, lay it out as DIR/val/WNID/*.JPEG, one folder a class, and run with --dataset "
        "imagenet --data-dir DIR"
    ),
}
"""Why, and what to do instead."""

FETCHED = ("cifar10",)


def fetch_cifar10(root: Path, report: Report, waiting: Callable[[], None]) -> Path:
    """CIFAR-10's original batches, fetched unless they are here; torchvision checks their digests.

    Args:
        root: what ``--data-dir`` will be.
        report: told of the progress.
        waiting: called when another process is fetching the same file.

    Raises:
        RequestError: the archive cannot be had, or is not the published one.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    archive = Path(root, CIFAR10.filename)
    with held(archive, waiting):
        try:
            CIFAR10(str(root), train=False)
        except RuntimeError:
            if not check_integrity(str(archive), CIFAR10.tgz_md5):
                partial = download(CIFAR10.url, archive, report)
                if not check_integrity(str(partial), CIFAR10.tgz_md5):
                    discard(partial)
                    raise RequestError(
                        f"{CIFAR10.url} has not the published MD5 {CIFAR10.tgz_md5}: nothing is kept; try again later"
                    ) from None
                partial.replace(archive)
                discard(partial)
            _unpack(root)
    return Path(root, CIFAR10.base_folder)


def _unpack(root: Path) -> None:
    from torchvision.datasets import CIFAR10

    try:
        CIFAR10(str(root), train=False, download=True)
    except (OSError, RuntimeError) as error:
        raise RequestError(f"the archive cannot be unpacked in {root} ({error}): choose another --data-dir") from None
