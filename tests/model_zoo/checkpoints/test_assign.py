"""Weights are data: what goes in comes out, what is damaged is refused, and nothing in a file is ever executed."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.checkpoints.layouts import read_checkpoint
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.digests import sha256_of
from tests.refusals import refused


def save_zip(content: Any, file: Path) -> None:
    torch.save(content, file)


def save_legacy(content: Any, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


FORMATS: dict[str, Callable[[Any, Path], None]] = {
    "w.safetensors": lambda tensors, file: save_file(dict(tensors), file),
    "w.pt": save_zip,
    "w.pth": save_legacy,
}
"""Ways to save a state, by the name of the file."""

PICKLES: dict[str, Callable[[Any, Path], None]] = {
    "zip": save_zip,
    "legacy": save_legacy,
    "bare": lambda content, file: file.write_bytes(pickle.dumps(content)) and None,
}


class Program:
    """What a hostile checkpoint holds: a command that is run when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def make_network() -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(5, 6))
    generator = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        values = torch.randint(1, 99, tensor.shape, generator=generator)
        tensor.copy_(values / 64 if tensor.is_floating_point() else values)
    return network


@pytest.fixture
def network() -> nn.Sequential:
    return make_network()


def refusal(file: Path) -> str:
    said = refused(read_checkpoint, file)
    assert said.startswith(f"weights {file}")
    assert " ()" not in said, "no reason"
    return said


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_saved_is_read_and_loaded_to_the_last_bit(tmp_path: Path, network: nn.Module, name: str) -> None:
    file = tmp_path / name
    FORMATS[name](network.state_dict(), file)
    tensors = read_checkpoint(file).tensors
    assert_same(tensors, network.state_dict())
    other = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(5, 6))
    assign_weights(other, tensors, file)
    assert_same(other.state_dict(), network.state_dict())


def test_written_weights_are_read_and_have_the_digest_that_was_returned(tmp_path: Path, network: nn.Module) -> None:
    file = tmp_path / "w.safetensors"
    digest = write_weights(network, file)
    assert digest == sha256_of(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert_same(read_checkpoint(file).tensors, network.state_dict())
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_written_weights_depend_on_values_alone(tmp_path: Path) -> None:
    assert write_weights(make_network(), tmp_path / "a.safetensors") == write_weights(
        make_network().to(memory_format=torch.channels_last), tmp_path / "b.safetensors"
    )


def test_written_weights_may_be_read_by_whoever_may_read_new_files(tmp_path: Path, network: nn.Module) -> None:
    write_weights(network, tmp_path / "w.safetensors")
    (tmp_path / "new").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, network: nn.Module, name: str) -> None:
    file = tmp_path / name
    FORMATS[name](network.state_dict(), file)
    content = file.read_bytes()
    for length in {*range(0, len(content), 29), *range(60), len(content) - 1}:
        file.write_bytes(content[:length])
        refusal(file)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_file_a_text_a_folder_and_nothing_are_refused(tmp_path: Path, name: str) -> None:
    for content in (b"", b"hello\n", 99 * b"\0"):
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)
    (tmp_path / name).unlink()
    assert "No such file" in refusal(tmp_path / name)
    (tmp_path / name).mkdir()
    assert "directory" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, network: nn.Module, name: str, value: float) -> None:
    state = network.state_dict()
    state["1.running_var"][2] = value
    FORMATS[name](state, tmp_path / name)
    assert "tensor '1.running_var' holds NaN or infinite values" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(2, 3, dtype=torch.complex64), torch.ones(2, 3, device="meta"), torch.eye(3).to_sparse()],
    ids=["complex", "meta", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # torch, of any sparse tensor it reads
def test_values_that_are_no_dense_real_numbers_are_refused(tmp_path: Path, tensor: Tensor) -> None:
    torch.save({"odd": tensor}, tmp_path / "w.pt")
    assert "tensor 'odd' is sparse, complex, quantised or without values" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(3),
        [torch.ones(3)],
        {"state_dict": {"weight": torch.ones(3), "epoch": 3}},
        {"elsewhere": {"weight": torch.ones(3)}},
        {"state_dict": {}},
        {},
        {"weight": torch.ones(3), "epoch": 3},
        {"weight": None},
        3,
        "text",
        None,
    ],
    ids=[
        "tensor",
        "list",
        "number in it",
        "elsewhere",
        "none of it",
        "empty",
        "a number too many",
        "none in it",
        "number",
        "text",
        "none",
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.pth"])
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path: Path, name: str, content: Any) -> None:
    FORMATS[name](content, tmp_path / name)
    assert refusal(tmp_path / name).endswith(" and no state dict (names to tensors): save model.state_dict()")


def test_a_whole_model_is_refused(tmp_path: Path, network: nn.Module) -> None:
    torch.save(network, tmp_path / "w.pt")
    assert "hold more than tensors" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("place", ["all of it", "a value", "beside tensors", "a name"])
@pytest.mark.parametrize("kind", PICKLES)
def test_a_program_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, kind: str, place: str, name: str) -> None:
    marker = tmp_path / "it ran"
    program = Program(marker)
    content = {
        "all of it": program,
        "a value": {"weight": program},
        "beside tensors": {"weight": torch.ones(2, 3), "extra": program},
        "a name": {program: torch.ones(2, 3)},
    }[place]
    PICKLES[kind](content, tmp_path / name)
    refusal(tmp_path / name)
    assert not marker.exists()
    load = torch.load if kind != "bare" else lambda file, weights_only: pickle.loads(file.read_bytes())
    harmful = tmp_path / "harmful.pt"
    PICKLES[kind](content, harmful)
    load(harmful, weights_only=False)
    assert marker.exists(), "the checkpoint is harmless, and the test shows nothing"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("2.bias"), "missing 2.bias (6,): choose"),
        (lambda state: state.update(extra=torch.ones(1)), "surplus extra (1,): choose"),
        (
            lambda state: state.update({"2.bias_": state.pop("2.bias")}),
            "missing 2.bias (6,); surplus 2.bias_ (6,): choose",
        ),
        (
            lambda state: [state.pop(name) for name in list(state)[:5]],
            "missing 0.bias (4,), 0.weight (4, 3, 2, 2), 1.bias (4,) and 2 more: choose",
        ),
        (
            lambda state: state.update({"2.bias": torch.ones(7)}),
            "'2.bias' has shape (7,) and the architecture's has (6,)",
        ),
        # torch would broadcast these.
        (lambda state: state.update({"2.bias": torch.ones(1)}), "'2.bias' has shape (1,) and"),
        (lambda state: state.update({"2.bias": torch.tensor(1.0)}), "'2.bias' has shape () and"),
        (lambda state: state.update({"2.weight": torch.ones(5, 6)}), "'2.weight' has shape (5, 6) and"),
    ],
    ids=["missing", "surplus", "renamed", "many missing", "longer", "one value", "no dimension", "transposed"],
)
def test_tensors_that_do_not_fit_exactly_are_refused_and_nothing_is_loaded(
    network: nn.Module, change: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    state = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    change(state)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RequestError) as caught:
        assign_weights(network, state, "w.pt")
    assert str(caught.value).startswith("weights w.pt")
    assert said in str(caught.value)
    assert "choose the architecture they were made with" in str(caught.value)
    assert_same(network.state_dict(), before)
