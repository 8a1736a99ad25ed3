"""NumPy archives: those that are whole, and those that are damaged, of another form, or made to harm."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robustbench_bcos.core.archives import read_arrays

ARRAYS = {"times": np.arange(300.0), "states": np.arange(6).reshape(2, 3)}


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, **ARRAYS)
    return file.getvalue()


def flipped(content: bytes) -> bytes:
    """A bit of the first array's numbers is another one, which the checksum tells."""
    place = len(content) // 4
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def single(content: bytes) -> bytes:
    file = io.BytesIO()
    np.save(file, ARRAYS["times"])
    return file.getvalue()


def pickled(content: bytes) -> bytes:
    file = io.BytesIO()
    np.savez(file, times=np.array([{}], dtype=object))
    return file.getvalue()


def larger_than_memory(content: bytes) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (2**60,)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("times.npy", head.getvalue())
    return file.getvalue()


def test_arrays_are_read_from_a_file_and_from_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(archive())
    for found in (read_arrays(archive()), read_arrays(tmp_path / "a.npz")):
        assert found.keys() == ARRAYS.keys()
        for name, expected in ARRAYS.items():
            np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize(
    "damage",
    [flipped, single, pickled, larger_than_memory, lambda content: content[:-30], lambda content: b"", lambda _: b"PK"],
)
def test_anything_else_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match=r"^it is damaged, or is no archive of arrays$"):
        read_arrays(damage(archive()))
