"""Files of exactly the published layouts give the network that was saved, and nothing else in them matters or runs."""

import copy
import hashlib
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import dill
import numpy as np
import pytest
import tomli_w
import torch
from bcos.experiments.CIFAR10.norm_ablations_final.experiment_parameters import CONFIGS
from bcos.experiments.CIFAR10.norm_ablations_final.model import get_model
from bcos.experiments.utils.config_utils import sanitize_config
from robustness.attacker import AttackerModel
from robustness.cifar_models.resnet import ResNet50
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.cards import EncodingSpec, WeightsFormat
from robustbench_bcos.model_zoo.checkpoints.layouts import Checkpoint, agree, common_prefix, read_checkpoint, unpack
from robustbench_bcos.model_zoo.checkpoints.match import matching_architectures
from robustbench_bcos.model_zoo.checkpoints.read import FileContent
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.models import CheckpointModel, load_model
from tests.refusals import refused

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SERIALISATIONS = {"zip": True, "before 1.6": False}


def save(content: Any, file: Path, serialisation: str = "zip", **options: Any) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=SERIALISATIONS[serialisation], **options)
    return file


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(values.abs() + 0.1 if name.endswith("running_var") else values)
    return network.eval()


def images() -> Tensor:
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(3))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def refusal(file: Path, **options: Any) -> str:
    said = refused(read_checkpoint, file, **options)
    assert said.startswith(f"weights {file}")
    return said


def official() -> nn.Module:
    """A network of the official package."""
    return randomise(get_model(copy.deepcopy(CONFIGS["resnet_20_bnu-linear-nomaxout"]["model"])))


def conventional() -> nn.Module:
    return randomise(build_architecture("resnet8", in_channels=3, classes=4, arguments={}))


# Lightning


class Trained(NamedTuple):
    """What the official trainer keeps, and the file that Lightning writes of it."""

    network: nn.Module
    average: nn.Module
    content: dict[str, Any]


def lightning(network: nn.Module, *, below: str = "model.", ema: bool = True) -> Trained:
    """As Lightning 1.9 saves the official trainer's module, an epoch into its training."""
    average = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    randomise(average.module, seed=1)
    state = {f"{below}{name}": tensor for name, tensor in network.state_dict().items()}
    if ema:
        averaged = average.state_dict().items()
        inner = below.removeprefix("model.")
        state |= {f"ema.{name.replace('module.', f'module.{inner}')}": tensor for name, tensor in averaged}
    optimizer = torch.optim.Adam(network.parameters())
    sum(parameter.sum() for parameter in network.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    monitor = {"monitor": "val_acc1", "best_model_score": torch.tensor(0.5), "best_model_path": "epoch=0.ckpt"}
    content = {
        "epoch": 1,
        "global_step": 782,
        "pytorch-lightning_version": "1.9.5",
        "state_dict": {name: tensor.clone() for name, tensor in state.items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_acc1'}": monitor, "MetricsTracker": {"val_acc1": [(0, 0.5)]}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": {"dataset": "CIFAR10", **sanitize_config(CONFIGS["resnet_20"])},
    }
    saved = {name.removeprefix(below): value for name, value in content["state_dict"].items() if name.startswith(below)}
    network.load_state_dict(saved)
    return Trained(network.eval(), average.module, content)


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("serialisation", SERIALISATIONS)
def test_a_lightning_checkpoint_of_the_official_training_gives_the_official_logits(
    tmp_path: Path, serialisation: str, ema: bool
) -> None:
    trained = lightning(official())
    file = save(trained.content, tmp_path / "last.ckpt", serialisation)
    network = trained.average if ema else trained.network
    assert_same(read_checkpoint(file, ema=ema).tensors, network.state_dict())
    assert_same(read_checkpoint(file, kind="lightning", ema=ema).tensors, network.state_dict())
    loaded = CheckpointModel(file=file, architecture="bcos_resnet20", ema=ema).load().classifier
    with torch.no_grad():
        expected = network(torch.cat([images(), 1 - images()], dim=1))
    torch.testing.assert_close(loaded(images()), expected, rtol=1e-5, atol=1e-5)


def test_averaged_weights_are_not_the_last_ones(tmp_path: Path) -> None:
    file = save(lightning(official()).content, tmp_path / "last.ckpt")
    last, averaged = (
        load_model(file, architecture="bcos_resnet20"),
        CheckpointModel(file=file, architecture="bcos_resnet20", ema=True),
    )
    assert not torch.allclose(last(images()), averaged.load().classifier(images()))


@pytest.mark.parametrize("ema", [False, True])
def test_a_bcosified_network_has_one_prefix_more(tmp_path: Path, ema: bool) -> None:
    trained = lightning(official(), below="model.model.")
    file = save(trained.content, tmp_path / "last.ckpt")
    found = read_checkpoint(file, ema=ema)
    assert_same(found.tensors, (trained.average if ema else trained.network).state_dict())
    assert found.prefix == ("ema.module.model." if ema else "model.model.")


def test_what_a_training_keeps_beside_the_network_is_counted_and_left_out(tmp_path: Path) -> None:
    trained = lightning(official(), ema=False)
    trained.content["state_dict"]["criterion.weight"] = torch.ones(10)
    found = read_checkpoint(save(trained.content, tmp_path / "last.ckpt"))
    assert_same(found.tensors, trained.network.state_dict())
    assert found.left_out == 1


def test_a_training_without_lightning_has_another_key(tmp_path: Path) -> None:
    network = official()
    file = save({"model_state_dict": network.state_dict(), "epoch": 3}, tmp_path / "net.pt")
    assert_same(read_checkpoint(file).tensors, network.state_dict())
    assert_same(read_checkpoint(file, kind="lightning").tensors, network.state_dict())


@pytest.mark.parametrize("layout", ["lightning", "bare", "robustbench", "madry", "model_state_dict"])
def test_an_average_that_is_not_there_is_refused_in_one_sentence(tmp_path: Path, layout: str) -> None:
    state = conventional().state_dict()
    content = {
        "lightning": lightning(conventional(), ema=False).content,
        "bare": state,
        "robustbench": {"state_dict": state},
        "madry": madry(conventional()),
        "model_state_dict": {"model_state_dict": state},
    }[layout]
    said = refusal(save(content, tmp_path / "net.pt"), ema=True)
    assert said.endswith("have no moving average of the weights: leave out ema (--ema)")


# MadryLab


class Cifar:
    """What the library asks of a dataset."""

    mean, std = torch.tensor(MEAN), torch.tensor(STD)


def madry(network: nn.Module) -> dict[str, Any]:
    """What the library's ``train_model`` saves of a model that is attacked as it trains."""
    model = nn.DataParallel(AttackerModel(network, Cifar))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: np.interp([epoch], [0, 2], [1, 0])[0])
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": 1,
        "amp": None,
        "best_prec1": torch.tensor(81.0),
    }


@pytest.mark.parametrize("serialisation", SERIALISATIONS)
@pytest.mark.parametrize("kind", [None, "madry"])
@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_checkpoint_of_the_robustness_library_gives_its_logits(
    tmp_path: Path, serialisation: str, kind: WeightsFormat | None, key: str
) -> None:
    network = conventional()
    content = madry(network)
    content[key] = content.pop("model")
    file = save(content, tmp_path / "cifar.pt", serialisation, pickle_module=dill)
    found = read_checkpoint(file, kind=kind)
    assert_same(found.tensors, network.state_dict())
    assert found.encoding == EncodingSpec(kind="normalize", mean=MEAN, std=STD)
    loaded = load_model(file, architecture="resnet8")
    with torch.no_grad():
        # What the library's forward pass does, which asks the network for more than an image.
        expected = network(AttackerModel(network, Cifar).normalizer(images()))
    torch.testing.assert_close(loaded(images()), expected)


def test_the_training_script_leaves_what_torch_alone_would_not_read(tmp_path: Path) -> None:
    """If this fails, no placeholder is needed any more."""
    file = save(madry(conventional()), tmp_path / "cifar.pt", pickle_module=dill)
    with pytest.raises(Exception, match=r"numpy.*scalar"):
        torch.load(file, weights_only=True)


class Saved:
    """An object that is saved as a call, which gives an object that can be called in turn."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = function, arguments, {"further": "state"}

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...], dict[str, str]]:
        return self.reduced

    def __call__(self) -> None:
        """What a call is reduced to must be callable."""


class Main:
    """The globals of a script."""


class Pickler2019(pickle._Pickler):
    """Saves functions with the calls and names that dill 0.3.0 used; nothing of them can be loaded today."""

    dispatch = {**pickle._Pickler.dispatch, Main: lambda self, main: self.write(b"c__builtin__\n__main__\n")}


def function_of_2019() -> Saved:
    code = Saved(Saved(dill._dill._load_type, "CodeType"), 1, 0, b"|\x00S\x00", ("epoch",), "main.py")
    return Saved(dill._dill._create_function, code, Main(), "schedule", None, None, {})


@pytest.mark.parametrize("serialisation", SERIALISATIONS)
def test_functions_that_were_saved_beside_the_published_models_are_passed_over(
    tmp_path: Path, serialisation: str
) -> None:
    network = conventional()
    content = madry(network) | {"args": {"schedule": function_of_2019(), "out": Path("out")}}
    old = SimpleNamespace(__name__="old", Pickler=Pickler2019, dump=pickle.dump)
    file = save(content, tmp_path / "cifar.pt", serialisation, pickle_module=old)
    assert_same(read_checkpoint(file).tensors, network.state_dict())


@pytest.mark.parametrize("serialisation", SERIALISATIONS)
def test_functions_that_dill_saves_today_are_refused_and_not_called(tmp_path: Path, serialisation: str) -> None:
    marker = tmp_path / "it ran"
    # Defined as in a script: dill saves such functions by value.
    script: dict[str, Any] = {"__name__": "__main__"}
    exec(f"def schedule(epoch, file={str(marker)!r}):\n    open(file, 'w').close()\n    return epoch", script)
    content = madry(conventional()) | {"args": script["schedule"]}
    file = save(content, tmp_path / "cifar.pt", serialisation, pickle_module=dill)
    assert "torch.save(model.state_dict(), 'weights.pth')" in refusal(file)
    assert not marker.exists()


def test_a_published_model_has_the_tensors_of_an_architecture_here() -> None:
    with torch.device("meta"):
        states = AttackerModel(ResNet50(), Cifar).state_dict()
    # Zeros that take no memory; the counts of batches are whole numbers.
    state = {
        f"module.{name}": torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in states.items()
    }
    for name in ("normalizer", "attacker.normalize"):
        state |= {
            f"module.{name}.new_mean": Cifar.mean[:, None, None],
            f"module.{name}.new_std": Cifar.std[:, None, None],
        }
    found = unpack(Path("cifar.pt"), FileContent({"model": state}, "torch"))
    assert found.kind == "madry"
    assert [fit.architecture for fit in matching_architectures(found.tensors)] == ["cifar_resnet50"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state["module.attacker.model.fc.bias"].add_(1), "two models, and the attacked one differs"),
        (lambda state: state.pop("module.attacker.model.fc.bias"), "two models, and the attacked one differs"),
        (lambda state: state["module.normalizer.new_mean"].add_(1), "two normalisers that differ"),
        (lambda state: state["module.attacker.normalize.new_std"].mul_(2), "two normalisers that differ"),
        (lambda state: [state.pop(name) for name in list(state) if "new_std" in name], "has no 'new_std'"),
        (lambda state: [state[name].zero_() for name in state if "new_std" in name], "all deviations positive"),
        (lambda state: [state.pop(name) for name in list(state) if ".fc" in name or "r.conv" in name], ""),
        (lambda state: [state.pop(name) for name in list(state) if name.startswith("module.model")], "and no model"),
    ],
    ids=["value", "name", "mean", "deviation", "no deviation", "zero", "fine", "no model"],
)
def test_a_model_whose_copies_differ_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    content = copy.deepcopy(madry(conventional()))
    # Two copies, as in a file that was tampered with: in the library they are one.
    content["model"] = {name: tensor.clone() for name, tensor in content["model"].items()}
    change(content["model"])
    file = save(content, tmp_path / "cifar.pt")
    if said:
        assert said in refusal(file)
    else:
        read_checkpoint(file)


def test_what_the_user_states_takes_the_place_of_the_normaliser(tmp_path: Path) -> None:
    network = conventional()
    file = save(madry(network), tmp_path / "cifar.pt")
    with torch.no_grad():
        assert torch.equal(load_model(file, architecture="resnet8", encoding="none")(images()), network(images()))
    stated = load_model(file, architecture="resnet8", encoding="normalize")
    assert torch.equal(stated(images()), load_model(file, architecture="resnet8")(images()))


@pytest.mark.parametrize(
    ("mean", "same"),
    [(MEAN, True), ((0.49140000343322754, *MEAN[1:]), True), ((0.4915, *MEAN[1:]), False), (MEAN[::-1], False)],
)
def test_constants_agree_in_the_precision_of_the_network(mean: tuple[float, float, float], same: bool) -> None:
    found = EncodingSpec(kind="normalize", mean=MEAN, std=STD)
    assert agree(EncodingSpec(kind="normalize", mean=mean, std=STD), found) == same
    assert not agree(EncodingSpec(kind="none"), found)


# RobustBench


@pytest.mark.parametrize("serialisation", SERIALISATIONS)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net"])
def test_a_robustbench_checkpoint_is_read_with_prefixes_and_without(
    tmp_path: Path, serialisation: str, prefix: str, wrapper: str | None
) -> None:
    network = conventional()
    state = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    content = state if wrapper is None else {wrapper: state, "epoch": 3, "best": np.float64(0.5)}
    file = save(content, tmp_path / "net.pt", serialisation)
    assert_same(read_checkpoint(file).tensors, network.state_dict())
    assert_same(read_checkpoint(file, kind="robustbench").tensors, network.state_dict())
    assert read_checkpoint(file).prefix == prefix


@pytest.mark.parametrize("prefix", ["net.", "model.", "encoder."])
def test_a_prefix_is_taken_off_only_where_all_names_carry_it_and_it_is_a_wrappers(tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in conventional().state_dict().items()}
    if prefix != "encoder.":
        state["head.weight"] = torch.ones(3)
    assert_same(read_checkpoint(save({"state_dict": state}, tmp_path / "net.pt")).tensors, state)


def test_safetensors_of_a_wrapped_network_lose_its_prefix(tmp_path: Path) -> None:
    network = conventional()
    save_file(nn.DataParallel(network).state_dict(), tmp_path / "net.safetensors")
    assert_same(read_checkpoint(tmp_path / "net.safetensors").tensors, network.state_dict())


@pytest.mark.parametrize(
    ("names", "prefix"),
    [(["a.b", "a.c.d"], "a."), (["a.b", "b.c"], ""), (["a.b", "a"], ""), (["a"], ""), ([], "")],
)
def test_a_common_prefix_is_the_first_part_of_all_names(names: list[str], prefix: str) -> None:
    assert common_prefix({name: torch.ones(1) for name in names}) == prefix


# What a card states of a file


CONTENTS: dict[str, Callable[[], Any]] = {
    "lightning": lambda: lightning(conventional()).content,
    "madry": lambda: madry(conventional()),
    "robustbench": lambda: {"state_dict": conventional().state_dict()},
    "state_dict": lambda: conventional().state_dict(),
    "safetensors": lambda: conventional().state_dict(),
}
ALSO = {("robustbench", "lightning"), ("state_dict", "robustbench")}
"""Layouts, and what else may be said of them: the same with less in it."""


@pytest.mark.parametrize("stated", CONTENTS)
@pytest.mark.parametrize("layout", CONTENTS)
def test_a_file_of_another_layout_than_its_card_states_is_refused(
    tmp_path: Path, layout: str, stated: WeightsFormat
) -> None:
    file = tmp_path / "net.pt"
    (save_file if layout == "safetensors" else save)(CONTENTS[layout](), file)
    assert read_checkpoint(file).kind == layout
    if stated == layout or (layout, stated) in ALSO:
        read_checkpoint(file, kind=stated)
    else:
        said = refusal(file, kind=stated)
        assert f"are laid out as {layout!r} and not as {stated!r}" in said


def write_card(
    folder: Path, file: Path, family: str, architecture: str, encoding: dict[str, Any], **weights: Any
) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    card = {
        "name": "mine",
        "family": family,
        "architecture": architecture,
        "dataset": "digits",
        "classes": 4 if family == "conventional" else 10,
        "image_size": [8, 12],
        "encoding": encoding,
        "loss": "ce",
        "weights": {"file": file.name, "sha256": digest, **weights},
        "licence": "CC0-1.0",
    }
    (folder / "mine.toml").write_text(tomli_w.dumps(card))


@pytest.mark.parametrize("ema", [False, True])
def test_a_card_says_which_weights_of_a_lightning_checkpoint_are_meant(tmp_path: Path, ema: bool) -> None:
    trained = lightning(official())
    file = save(trained.content, tmp_path / "last.ckpt")
    write_card(tmp_path, file, "bcos", "bcos_resnet20", {"kind": "add_inverse"}, format="lightning", ema=ema)
    loaded = load_model("mine", zoo=tmp_path)
    assert isinstance(loaded, ImageClassifier)
    assert_same(loaded.network.state_dict(), (trained.average if ema else trained.network).state_dict())


def test_a_card_with_other_constants_than_the_normaliser_of_its_file_is_refused(tmp_path: Path) -> None:
    network = conventional()
    file = save(madry(network), tmp_path / "cifar.pt", pickle_module=dill)
    stated = {"kind": "normalize", "mean": MEAN, "std": STD}
    write_card(tmp_path, file, "conventional", "resnet8", stated, format="madry")
    with torch.no_grad():
        expected = network(AttackerModel(network, Cifar).normalizer(images()))
    torch.testing.assert_close(load_model("mine", zoo=tmp_path)(images()), expected)
    for other in ({**stated, "std": (0.247, 0.2435, 0.2616)}, {"kind": "none"}):
        write_card(tmp_path, file, "conventional", "resnet8", other, format="madry")
        with pytest.raises(
            RequestError, match=r"^card 'mine' states encoding .* have normalize .*0\.2023.*: write the l"
        ):
            load_model("mine", zoo=tmp_path)


def test_a_card_may_ask_for_names_as_they_are(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in conventional().state_dict().items()}
    assert_same(read_checkpoint(save(state, tmp_path / "net.pt"), kind="state_dict").tensors, state)
    save_file(state, tmp_path / "net.safetensors")
    found: Checkpoint = read_checkpoint(tmp_path / "net.safetensors", kind="safetensors")
    assert_same(found.tensors, state)


# Averages of other trainings

EPOCH = {"epoch": 3, "best": 0.5}


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


AVERAGED: dict[str, Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Any]]] = {
    "timm": lambda last, ema: {"state_dict": last, "state_dict_ema": ema, **EPOCH},
    "torchvision": lambda last, ema: {
        "model": last,
        "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", ema)},
        **EPOCH,
    },
    "an object's state": lambda last, ema: {"model": last, "ema": {"module": ema, "decay": 0.99, "updates": 3}},
    "beside its weights": lambda last, ema: {"model": {"state_dict": last, "ema": prefixed("module.", ema)}, **EPOCH},
    "by name": lambda last, ema: {**prefixed("online_model.", last), **prefixed("ema_model.", ema)},
    "compiled": lambda last, ema: {"net": prefixed("_orig_mod.", last), "ema_model": prefixed("_orig_mod.", ema)},
    "BasicSR": lambda last, ema: {"params": last, "params_ema": ema},
    "in the place of the weights": lambda last, ema: {
        "pytorch-lightning_version": "2.6.0",
        "state_dict": prefixed("model.", ema),
        "current_model_state": prefixed("model.", last),
        "averaging_state": {"n_averaged": torch.tensor(7)},
    },
}


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("layout", AVERAGED)
def test_an_average_is_found_wherever_trainings_keep_it(tmp_path: Path, layout: str, ema: bool) -> None:
    last, average = conventional().state_dict(), randomise(conventional(), seed=1).state_dict()
    file = save(AVERAGED[layout](last, average), tmp_path / "net.pt")
    assert_same(read_checkpoint(file, ema=ema).tensors, average if ema else last)


@pytest.mark.parametrize("ema", [False, True])
def test_an_averaged_model_that_is_all_there_is_is_taken(tmp_path: Path, ema: bool) -> None:
    network = conventional()
    averaged = torch.optim.swa_utils.AveragedModel(network)
    file = save(averaged.state_dict(), tmp_path / "net.pt")
    assert_same(read_checkpoint(file, ema=ema).tensors, network.state_dict())


def test_an_average_that_has_a_name_must_be_asked_for(tmp_path: Path) -> None:
    state = conventional().state_dict()
    for name, content in (
        ("state_dict_ema", {"state_dict_ema": state, **EPOCH}),
        ("ema", prefixed("ema.module.", state)),
    ):
        file = save(content, tmp_path / "net.pt")
        assert refusal(file).endswith(
            f"hold a moving average of the weights alone ({name}): ask for it with ema (--ema)"
        )
        assert_same(read_checkpoint(file, ema=True).tensors, state)


def test_two_averages_must_be_one(tmp_path: Path) -> None:
    first, second = conventional().state_dict(), randomise(conventional(), seed=1).state_dict()
    file = save({"model": first, "ema": first, "swa_model": second}, tmp_path / "net.pt")
    assert "hold several moving averages that differ (ema, swa_model): save the one that is meant" in refusal(
        file, ema=True
    )
    assert_same(read_checkpoint(save({"ema": first, "model_ema": first}, file), ema=True).tensors, first)


def test_an_average_below_its_settings_is_read(tmp_path: Path) -> None:
    first, second = conventional().state_dict(), randomise(conventional(), seed=1).state_dict()
    file = save({"model": first, "ema": {"decay": 0.99, "shadow": second}}, tmp_path / "net.pt")
    assert_same(read_checkpoint(file, ema=True).tensors, second)


def test_an_average_of_a_form_that_is_not_read_is_not_denied(tmp_path: Path) -> None:
    state = conventional().state_dict()
    file = save({"model": state, "ema": {"decay": 0.99, "shadow_params": list(state.values())}}, tmp_path / "net.pt")
    assert "have a moving average under 'ema' that is no state dict" in refusal(file, ema=True)


# Wrappers, counters and normalisers


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: prefixed("_orig_mod.", state),
        lambda state: prefixed("_orig_mod.module.", state),
        lambda state: prefixed("module._orig_mod.model.", state),
        lambda state: prefixed("_fsdp_wrapped_module.", state),
        lambda state: {name.replace("layer1.", "layer1._orig_mod."): tensor for name, tensor in state.items()},
        lambda state: {name.replace("layer1.0.", "layer1.0.module."): tensor for name, tensor in state.items()},
        lambda state: {**state, "total_ops": torch.zeros(1), "layer1.0.conv1.total_params": torch.zeros(1)},
        lambda state: {**state, **EPOCH},
        lambda state: {"checkpoint": {"state_dict": prefixed("module.", state)}},
    ],
)
def test_what_wrappers_and_profilers_add_is_taken_off(
    tmp_path: Path, wrapped: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    network = conventional()
    file = save(wrapped(network.state_dict()), tmp_path / "net.pt")
    assert_same(read_checkpoint(file).tensors, network.state_dict())


def test_a_module_that_the_network_needs_the_name_of_is_kept(tmp_path: Path) -> None:
    state = {"0.weight": torch.ones(2), "0.module.weight": torch.zeros(2)}
    assert_same(read_checkpoint(save(state, tmp_path / "net.pt")).tensors, state)


CONSTANTS = torch.tensor(MEAN), torch.tensor(STD)
NORMALISED = [
    (("mu", "sigma"), ""),
    (("mean", "std"), ""),
    (("normalize.mean", "normalize.std"), "model."),
    (("normalizer.mean", "normalizer.std"), "model."),
    (("0.mean", "0.std"), "1."),
    (("0.normalize.mean", "0.normalize.std"), "1."),
    (("_orig_mod.module.norm.mu", "_orig_mod.module.norm.sigma"), "_orig_mod.module.backbone."),
]


@pytest.mark.parametrize(("names", "prefix"), NORMALISED)
@pytest.mark.parametrize("shape", [(3,), (1, 3, 1, 1)])
def test_a_normaliser_in_front_of_the_network_becomes_its_encoding(
    tmp_path: Path, names: tuple[str, str], prefix: str, shape: tuple[int, ...]
) -> None:
    network = conventional()
    constants = {name: values.view(shape) for name, values in zip(names, CONSTANTS, strict=True)}
    file = save({"state_dict": constants | prefixed(prefix, network.state_dict())}, tmp_path / "net.pt")
    found = read_checkpoint(file)
    assert_same(found.tensors, network.state_dict())
    assert found.encoding is not None
    assert found.encoding.constants == {"mean": MEAN, "std": STD}
    with torch.no_grad():
        logits = load_model(file, architecture="resnet8")(images())
        normalised = (images() - CONSTANTS[0].view(3, 1, 1)) / CONSTANTS[1].view(3, 1, 1)
        torch.testing.assert_close(logits, network(normalised))


def test_a_normaliser_of_bytes_or_of_one_number_is_meant_for_pixels_of_three_channels(tmp_path: Path) -> None:
    state = prefixed("1.", conventional().state_dict())
    file = save(state | {"0.mean": 255 * CONSTANTS[0], "0.std": 255 * CONSTANTS[1]}, tmp_path / "net.pt")
    found = read_checkpoint(file).encoding
    assert found is not None
    assert found.constants["mean"] == pytest.approx(MEAN)
    assert found.constants["std"] == pytest.approx(STD)
    found = read_checkpoint(save(state | {"0.mean": torch.tensor(0.5), "0.std": torch.tensor([0.25])}, file)).encoding
    assert found is not None
    assert found.constants == {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def test_a_normaliser_that_divides_by_nothing_is_refused(tmp_path: Path) -> None:
    state = {**conventional().state_dict(), "mu": CONSTANTS[0], "sigma": torch.zeros(3)}
    assert "their normaliser has means" in refusal(save(state, tmp_path / "net.pt"))


def test_a_lightning_module_keeps_its_network_under_any_name_beside_losses_and_a_normaliser(tmp_path: Path) -> None:
    network = conventional()
    state = {"criterion.weight": torch.ones(4), "accuracy.total": torch.tensor(3)}
    state |= {"net.0.mean": CONSTANTS[0], "net.0.std": CONSTANTS[1]} | prefixed("net.1.", network.state_dict())
    found = read_checkpoint(save({"state_dict": state, "pytorch-lightning_version": "2.5"}, tmp_path / "last.ckpt"))
    assert_same(found.tensors, network.state_dict())
    assert found.encoding is not None
    assert (found.kind, found.prefix, found.left_out) == ("lightning", "net.1.", 4)


# Nothing runs


class Program:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("serialisation", SERIALISATIONS)
@pytest.mark.parametrize("layout", ["lightning", "madry", "robustbench"])
def test_a_program_anywhere_in_a_training_record_is_named_and_not_run(
    tmp_path: Path, layout: str, serialisation: str
) -> None:
    marker = tmp_path / "it ran"
    content = CONTENTS[layout]() | {"callbacks": {"Hidden": [Program(marker)]}}
    file = save(content, tmp_path / "net.ckpt", serialisation)
    said = refusal(file)
    assert f"need {os.system.__module__}.system" in said
    assert "programs in a checkpoint are not run" in said
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "the checkpoint is harmless, and the test shows nothing"
