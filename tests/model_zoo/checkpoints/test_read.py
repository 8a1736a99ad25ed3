"""A file is what it is and not what it is called; one that holds no weights is told from one that is damaged."""

import enum
import functools
import gzip
import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.checkpoints.layouts import read_checkpoint
from robustbench_bcos.model_zoo.checkpoints.read import Placeholder, read_content
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.models import load_model
from tests.refusals import refused


def network() -> nn.Module:
    made = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4))
    generator = torch.Generator().manual_seed(0)
    for tensor in made.state_dict().values():
        # Sixty-fourths are exact in half precision, too.
        values = torch.randint(1, 99, tensor.shape, generator=generator)
        tensor.copy_(values / 64 if tensor.is_floating_point() else values)
    return made


def zipped(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def legacy(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


CONTAINERS: dict[str, Callable[[Any], bytes]] = {
    "zip": zipped,
    "legacy": legacy,
    "safetensors": lambda state: save(dict(state)),
}


def refusal(file: Path) -> str:
    said = refused(read_checkpoint, file)
    assert said.startswith(f"weights {file}")
    return said


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "w.safetensors", "w.bin", "w"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_name_of_a_file_does_not_matter(tmp_path: Path, container: str, name: str) -> None:
    state = network().state_dict()
    (tmp_path / name).write_bytes(CONTAINERS[container](state))
    found = read_checkpoint(tmp_path / name).tensors
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>Not Found", "are a web page or a server's message: download the file itself"),
        (b"\n  <html>", "are a web page or a server's message: download the file itself"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error>", "are a web page or a server's message: download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "are a pointer of Git LFS: `git lfs pull` gets the file"),
        (gzip.compress(b"weights"), "are compressed: unpack them"),
        (b'{"error": "not found"}', "are neither a whole safetensors file nor a whole torch checkpoint (22 bytes that"),
        (b"", "are neither a whole safetensors file nor a whole torch checkpoint (0 bytes that begin with b'')"),
    ],
    ids=["page", "blank first", "server", "lfs", "gzip", "json", "empty"],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_no_checkpoint_under_the_name_of_one_is_told(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_download_that_broke_off_is_told_with_its_size(tmp_path: Path, share: float) -> None:
    state = {"weight": torch.arange(9999.0)}
    for container, make in CONTAINERS.items():
        content = make(state)[: int(share * len(make(state)))]
        (tmp_path / "w.pt").write_bytes(content)
        said = refusal(tmp_path / "w.pt")
        assert said.endswith(": get the file again")
        if container == "zip":
            assert f"the end of the archive is missing after {len(content)} bytes" in said
        if container == "safetensors":
            assert "not a whole safetensors file (" in said
            assert f"{len(content)} bytes" in said


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_refused_as_one(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 3)), tmp_path / "w.pt")
    assert "are a TorchScript program, and programs are not run: save the state dict" in refusal(tmp_path / "w.pt")


def test_the_name_of_what_is_needed_and_refused_is_told(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "model": nn.Linear(2, 3)}, tmp_path / "w.pt")
    assert "(they need torch.nn.modules.linear.Linear)" in refusal(tmp_path / "w.pt")


# Types and storages of tensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("container", CONTAINERS)
def test_weights_of_other_precisions_are_loaded_in_the_networks(
    tmp_path: Path, container: str, dtype: torch.dtype
) -> None:
    expected = network().state_dict()
    # Sixty-fourths up to 63 are exact in eight bits of mantissa, too.
    expected = {key: (tensor * 64 % 64 / 64).to(tensor.dtype) for key, tensor in expected.items()}
    state = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in expected.items()}
    (tmp_path / "w.pt").write_bytes(CONTAINERS[container](state))
    loaded = network()
    assign_weights(loaded, read_checkpoint(tmp_path / "w.pt").tensors, "w.pt")
    for key, tensor in loaded.state_dict().items():
        assert tensor.dtype == expected[key].dtype
        assert torch.equal(tensor, expected[key])


def test_counts_that_were_saved_as_real_numbers_are_taken() -> None:
    state = {key: tensor.half() for key, tensor in network().state_dict().items()}
    loaded = network()
    assign_weights(loaded, state, "w.pt")
    assert all(torch.equal(tensor.float(), state[key].float()) for key, tensor in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("0.bias", torch.ones(4, dtype=torch.int8)),
        ("0.bias", torch.ones(4, dtype=torch.bool)),
        ("1.num_batches_tracked", torch.tensor(0.5)),
    ],
)
def test_whole_numbers_are_no_weights_and_fractions_are_no_counts(name: str, tensor: Tensor) -> None:
    with pytest.raises(RequestError, match=f"tensor '{name}' is of type {tensor.dtype} and the architecture's of"):
        assign_weights(network(), {**network().state_dict(), name: tensor}, "w.pt")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    torch.save({"weight": quantised}, tmp_path / "w.pt")
    assert "tensor 'weight' is sparse, complex, quantised or without values" in refusal(tmp_path / "w.pt")


def test_what_overflows_in_the_precision_of_networks_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.tensor([1.0, 1e300], dtype=torch.float64)}, tmp_path / "w.pt")
    assert "tensor 'weight' holds NaN or infinite values" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_tensors_that_share_or_repeat_their_values_are_read_and_written_apart(tmp_path: Path, container: str) -> None:
    shared = torch.arange(1.0, 9.0) / 8
    state = network().state_dict()
    state |= {"0.bias": shared[:4], "1.weight": shared[2:6], "1.bias": shared[::2], "1.running_mean": shared[:4]}
    state["1.running_var"] = torch.tensor([0.5]).expand(4)
    (tmp_path / "w.pt").write_bytes(CONTAINERS[container](state))
    loaded = network()
    assign_weights(loaded, read_checkpoint(tmp_path / "w.pt").tensors, "w.pt")
    write_weights(loaded, tmp_path / "w.safetensors")
    found = read_checkpoint(tmp_path / "w.safetensors").tensors
    assert all(torch.equal(found[key], state[key]) for key in state)


# Placeholders


def test_a_placeholder_does_nothing() -> None:
    placeholder = Placeholder()
    # As torch instantiates what stands for a class.
    assert placeholder.__new__(placeholder, 1, "two") is placeholder  # type: ignore[call-overload]
    assert placeholder() is placeholder("rm", -1) is placeholder
    placeholder.__setstate__({"__call__": 3, "more": 4})
    placeholder.append(1)
    placeholder.extend([2, 3])
    assert vars(placeholder) == {}
    assert list(placeholder) == []


class Tagged(dict[str, Any]):
    """A dictionary with other methods, as Lightning and others keep arguments in."""


class Configuration:
    """An object of a training's own code, which must not be made."""

    def __init__(self) -> None:
        self.values = Several([1, Kind.FIRST])

    def __setstate__(self, state: object) -> None:
        raise AssertionError("it was made")


class Several(list[Any]):
    """A list with other methods."""


class Kind(enum.Enum):
    """A choice."""

    FIRST = 1


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_configuration_of_any_class_is_passed_over(tmp_path: Path, container: str) -> None:
    state = network().state_dict()
    arguments = Tagged(kind=Kind.FIRST, own=Configuration(), make=functools.partial(max, 3), all=Several([Several()]))
    content = {"state_dict": Tagged(state), "hyper_parameters": arguments, "callbacks": {Configuration: slice(1)}}
    (tmp_path / "w.ckpt").write_bytes(CONTAINERS[container](content))
    found = read_checkpoint(tmp_path / "w.ckpt").tensors
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


class Call:
    """Saved as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda file: Call(os.mkdir, file), f"{os.mkdir.__module__}.mkdir"),
        (lambda file: Call(subprocess.call, ["mkdir", file]), "commands.call"),
        (lambda file: Call(eval, f"__import__('os').mkdir({file!r})"), "eval"),
        (lambda file: Call(shutil.copytree, str(Path(__file__).parent), file), "shutil.copytree"),
    ],
)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_what_acts_on_the_machine_is_refused_by_name_and_not_run(
    tmp_path: Path, container: str, call: Callable[[str], Call], named: str
) -> None:
    marker = tmp_path / "it ran"
    content = {"state_dict": network().state_dict(), "hyper_parameters": Tagged(own=call(str(marker)))}
    (tmp_path / "w.ckpt").write_bytes(CONTAINERS[container](content))
    assert f"(they need {named}), and programs in a checkpoint are not run" in refusal(tmp_path / "w.ckpt")
    assert not marker.exists()
    torch.load(tmp_path / "w.ckpt", weights_only=False)
    assert marker.exists(), "the checkpoint is harmless, and the test shows nothing"


def test_reading_leaves_torchs_own_list_of_safe_names_as_it_was(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    torch.save(network().state_dict(), tmp_path / "w.pt")
    read_content(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(b"\x80\x02broken")
    refusal(tmp_path / "w.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_placeholder_in_place_of_a_tensor_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(2), "bias": Path("a")}}, tmp_path / "w.pt")
    assert "(they need pathlib." in refusal(tmp_path / "w.pt")


def test_an_unknown_prefix_is_told_with_the_remedy(tmp_path: Path) -> None:
    torch.save({f"encoder.{key}": tensor for key, tensor in network().state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(RequestError) as caught:
        load_model(tmp_path / "w.pt", architecture="vgg11")
    assert "all names begin with 'encoder.': save {name.removeprefix('encoder.'): tensor for" in str(caught.value)
