"""The request: everything is checked before the first attack, and the identity holds what decides the numbers."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_bcos.bench.adversarials import KEPT
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.request import Request, portable_name
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from tests.bench.tiny_zoo import NAMES, tiny_request
from tests.refusals import refused

refusal = partial(refused, tiny_request)


# Models


def test_a_model_is_found_by_name_by_glob_and_once(tiny_zoo: Path) -> None:
    request = tiny_request(tiny_zoo, model=("tiny-bcos", "tiny-*", "tiny-natural"))
    assert tuple(source.name for source in request.sources) == ("tiny-bcos", "tiny-natural")
    assert {cell.model for cell in request.cells} == set(request.weights) == set(NAMES)


def test_without_models_the_whole_zoo_of_the_dataset_is_meant(tiny_zoo: Path) -> None:
    names = {source.name for source in tiny_request(tiny_zoo, model=(), limit=2).sources}
    assert names >= {*NAMES, "digits-natural", "digits-bcos-b2"}


def test_cells_of_threats_are_those_threats_model_by_model(tiny_zoo: Path) -> None:
    request = tiny_request(tiny_zoo, threat=("l2:0.5", "linf:0.1"), steps=(2, 5))
    one = [("l2", "0.5", 2), ("l2", "0.5", 5), ("linf", "0.1", 2), ("linf", "0.1", 5)]
    assert [
        (cell.model, cell.threat.norm, cell.threat.text, cell.attack.options["steps"]) for cell in request.cells
    ] == [(name, *cell) for name in NAMES for cell in one]


def test_the_radius_of_every_threat_is_checked(tiny_zoo: Path) -> None:
    said = refusal(tiny_zoo, threat=("l2:0.5", "linf:8"))
    assert "eps 8 for norm linf is larger than the whole pixel range" in said


def test_a_dataset_without_a_zoo_asks_for_models(tiny_zoo: Path) -> None:
    said = refusal(tiny_zoo, model=(), dataset="folder:somewhere")
    assert "the zoo has no models for --dataset folder:somewhere: name some with --model" in said


def test_a_checkpoint_is_a_model_beside_those_of_the_zoo(tiny_zoo: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes((tiny_zoo / "tiny-bcos.safetensors").read_bytes())
    flags: dict[str, Any] = {"weights": file, "architecture": "bcos_resnet8"}
    request = tiny_request(tiny_zoo, **flags)
    assert [source.name for source in request.sources] == ["mine", *NAMES]
    assert request.weights["mine"] == request.weights["tiny-bcos"]
    assert [source.name for source in tiny_request(tiny_zoo, model=(), **flags).sources] == ["mine"]
    namesake = file.rename(tmp_path / "tiny-bcos.safetensors")
    said = refusal(tiny_zoo, weights=namesake, architecture="bcos_resnet8")
    assert "--weights and --model are both called 'tiny-bcos'" in said


# Radii and images


def test_radii_are_checked_for_every_norm_of_the_grid(tiny_zoo: Path) -> None:
    # Half the pixel box of 8x8 digits in l2, more than all of it in linf.
    assert tiny_request(tiny_zoo, norm=("l2",), eps=("7",), limit=2)
    said = refusal(tiny_zoo, norm=("l2", "linf"), eps=("0.1", "7"))
    assert "eps 7 for norm linf is larger than the whole pixel range, 1: did you mean 7/255?" in said
    assert "eps 14 for norm l2" in refusal(tiny_zoo, eps=("14",))


def test_the_encoded_space_is_a_larger_box(tiny_zoo: Path) -> None:
    encoded: dict[str, Any] = {"model": ("tiny-bcos",), "space": "encoded", "limit": 2}
    assert tiny_request(tiny_zoo, eps=("14",), **encoded)
    assert "eps 20 for norm l2" in refusal(tiny_zoo, eps=("20",), **encoded)


def test_too_many_images_are_refused(tiny_zoo: Path) -> None:
    assert "limit 365 must be between 1 and the 364 images of digits" in refusal(tiny_zoo, limit=365)


# Explanations


def test_images_asked_for_are_explained_before_the_first_of_the_subset(tiny_zoo: Path) -> None:
    first = tiny_request(tiny_zoo, limit=20).subset.indices
    request = tiny_request(tiny_zoo, limit=20, explained=4, images=(first[9], first[2], first[9]))
    assert request.explained is not None
    assert request.explained.indices == (first[9], first[2], first[0], first[1], first[3])


def test_with_figures_the_first_fifty_are_explained(tiny_zoo: Path) -> None:
    for limit, count in {30: 30, 60: 50}.items():
        request = tiny_request(tiny_zoo, limit=limit, figures=True)
        assert request.explained is not None
        assert request.explained.indices == request.subset.indices[:count]
    assert tiny_request(tiny_zoo, limit=60, figures=False).explained is None
    assert tiny_request(tiny_zoo, limit=60, figures=True, explained=0).explained is None


def test_an_image_that_is_not_part_of_the_run_is_refused_with_some_that_are(tiny_zoo: Path) -> None:
    inside = tiny_request(tiny_zoo, limit=12).subset.indices
    outside = tiny_request(tiny_zoo, limit=13).subset.indices[-1]
    assert refusal(tiny_zoo, limit=12, images=(inside[3], outside)) == (
        f"images {outside} is not among the 12 images of this run: give indices of digits such as "
        f"{inside[0]}, {inside[1]}, {inside[2]}, or a larger limit"
    )


@pytest.mark.parametrize(("method", "name"), [("deeplift", "tiny-bcos"), ("dynamic_weights", "tiny-natural")])
def test_a_method_that_cannot_serve_one_of_the_models_is_refused(method: str, name: str, tiny_zoo: Path) -> None:
    said = refusal(tiny_zoo, explained=1, explanation=method, limit=3)
    assert said.startswith(f"--explanation cannot serve model '{name}': {method} ")
    assert ": choose " in said
    assert "\n" not in said
    assert tiny_request(tiny_zoo, explained=0, explanation=method, limit=3).explained is None


# Identity


def identity(zoo: Path, **flags: Any) -> dict[str, Any]:
    return tiny_request(zoo, **{"model": ("tiny-natural",), "limit": 4, **flags}).identity.to_json()


@pytest.mark.parametrize("flags", [{"batch_size": 3}, {"threads": 2}, {"model": ("tiny-nat*",)}])
def test_what_decides_no_number_is_not_part_of_the_identity(tiny_zoo: Path, flags: dict[str, Any]) -> None:
    assert identity(tiny_zoo, **flags) == identity(tiny_zoo)


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"limit": 5}, "subset"),
        ({"limit": 5}, "images"),
        ({"eps": ("1/2",)}, "cells"),
        ({"steps": (4,)}, "cells"),
        ({"select": "last"}, "cells"),
        ({"model": ("tiny-bcos",)}, "weights"),
        ({"evidence": "quick"}, "evidence"),
        ({"distances": True}, "distances"),
        ({"certify": "smoothing"}, "smoothed"),
        ({"attack": ("square",), "queries": 3}, "cells"),
        ({"criterion": "targeted", "target": "3"}, "cells"),
        ({"precision": "bf16"}, "attack_backend"),
        ({"independent_cells": True}, "independent_cells"),
    ],
)
def test_what_decides_a_number_is_part_of_the_identity(tiny_zoo: Path, flags: dict[str, Any], key: str) -> None:
    assert identity(tiny_zoo, **flags)[key] != identity(tiny_zoo).get(key)


@pytest.mark.parametrize(
    ("flags", "other"),
    [
        ({"explained": 2}, {"explained": 3}),
        ({"explained": 2}, {"explained": 0}),
        ({"explained": 2}, {"explanation": "input_x_gradient"}),
        ({"explained": 2}, {"images": (2,)}),
        ({"images": (2,)}, {"images": (1,)}),
    ],
)
def test_runs_that_explain_something_else_are_other_runs(
    tiny_zoo: Path, flags: dict[str, Any], other: dict[str, Any]
) -> None:
    one, another = identity(tiny_zoo, **flags), identity(tiny_zoo, **{**flags, **other})
    assert {key for key in one if one[key] != another[key]} == {"explained"}


def test_without_figures_the_same_explanations_are_the_same_run(tiny_zoo: Path) -> None:
    assert identity(tiny_zoo, explained=2, figures=True) == identity(tiny_zoo, explained=2, figures=False)
    assert identity(tiny_zoo, figures=True) == identity(tiny_zoo, explained=50, figures=False)
    assert identity(tiny_zoo, figures=False) == identity(tiny_zoo, explained=0, figures=True)


def test_a_run_that_explains_nothing_does_not_ask_how(tiny_zoo: Path) -> None:
    assert identity(tiny_zoo, explanation="gradcam") == identity(tiny_zoo)
    assert identity(tiny_zoo)["explained"] is None


def test_the_default_folder_is_one_for_each_configuration(tiny_zoo: Path) -> None:
    request = tiny_request(tiny_zoo, limit=2, norm=("l2", "linf"))
    names = {tiny_request(tiny_zoo, limit=2, norm=("l2", "linf"), seed=seed).folder_name for seed in (0, 0, 1)}
    assert request.folder_name in names
    assert len(names) == 2
    assert request.folder_name.startswith("digits-l2-linf-")


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("digits", "digits"), ("folder:/one/place/cats", "folder:cats"), ("folder:cats/", "folder:cats")],
)
def test_a_folder_goes_by_its_last_part_wherever_it_lies(dataset: str, name: str) -> None:
    assert portable_name(dataset) == name


def test_a_session_says_where_its_numbers_come_from(tiny_zoo: Path) -> None:
    said = tiny_request(tiny_zoo, limit=2).describe()
    assert said["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert said["configuration"]["model"] == list(NAMES)
    assert list(said["class_names"]) == [str(digit) for digit in range(10)]
    assert said["device"].endswith(f"CPU, {torch.get_num_threads()} threads")
    assert said["command"].startswith("robustbench_bcos")


def test_a_broken_image_is_found_with_the_identity(tiny_zoo: Path) -> None:
    request = tiny_request(tiny_zoo, limit=4)
    pixels, labels = request.subset.batch(0, 4)[:2]
    dataset = InMemory(pixels, labels, classes=10)

    def broken(index: int) -> Tensor:
        raise RequestError(f"image {index} cannot be decoded")

    dataset.read = broken  # type: ignore[method-assign]
    unreadable: Request = replace(request, subset=EvalSubset.of(dataset))
    with pytest.raises(RequestError, match="image 0 cannot be decoded"):
        _ = unreadable.identity


def test_a_loss_that_auto_means_anyway_is_not_attacked_twice(tiny_zoo: Path) -> None:
    request = tiny_request(tiny_zoo, loss=("auto", "ce"))
    assert [(cell.model, cell.attack.options["loss"]) for cell in request.cells] == [
        ("tiny-natural", "auto"),
        ("tiny-bcos", "auto"),
        ("tiny-bcos", "ce"),
    ]


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ({"evidence": "off"}, 0),
        ({"evidence": "quick"}, KEPT),
        ({"evidence": "full"}, 80),
        ({"evidence": "quick", "limit": 5}, 5),
        ({"evidence": "full", "model": ("tiny-bcos",)}, 0),
    ],
)
def test_adversarials_are_kept_where_another_model_is_to_be_tried_on_them(
    tiny_zoo: Path, flags: dict[str, Any], count: int
) -> None:
    request = tiny_request(tiny_zoo, **{"limit": 80, **flags})
    assert request.transferred == frozenset(request.subset.indices[:count])


def test_adversarials_of_an_encoded_space_are_not_kept(tiny_zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "twin.safetensors").write_bytes((tiny_zoo / "tiny-bcos.safetensors").read_bytes())
    twin: dict[str, Any] = {"weights": tmp_path / "twin.safetensors", "architecture": "bcos_resnet8"}
    request = tiny_request(tiny_zoo, model=("tiny-bcos",), limit=5, evidence="quick", **twin)
    assert len(request.sources) == 2
    assert len(request.transferred) == 5
    encoded = tiny_request(tiny_zoo, model=("tiny-bcos",), limit=5, evidence="quick", space="encoded", **twin)
    assert encoded.transferred == frozenset()


def test_without_torchattacks_fab_is_refused_and_autoattack_is_another_run(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchattacks")
    whole = identity(tiny_zoo, attack=("autoattack",))
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    less = identity(tiny_zoo, attack=("autoattack",))
    assert {key for key in whole if whole[key] != less[key]} == {"cells"}
    assert [of["cells"][0]["attack"] for of in (whole, less)] == [
        {"name": "autoattack", "fab": True},
        {"name": "autoattack", "fab": False},
    ]
    assert refusal(tiny_zoo, attack=("pgd", "fab")).startswith("FAB needs torchattacks, which is not installed: ")


def test_an_attack_without_a_loss_is_not_repeated_for_each(tiny_zoo: Path) -> None:
    request = tiny_request(
        tiny_zoo, loss=("auto", "margin"), attack=("square", "noise", "apgd"), model=("tiny-natural",)
    )
    assert [(cell.attack.name, cell.attack.options.get("loss")) for cell in request.cells] == [
        ("square", None),
        ("noise", None),
        ("apgd", "auto"),
        ("apgd", "margin"),
    ]


# Criteria


def test_a_target_may_be_named_by_its_class(tiny_zoo: Path) -> None:
    named, numbered = (
        tiny_request(tiny_zoo, dataset="digits", criterion="targeted", target=target, limit=4) for target in ("7", 7)
    )
    assert {cell.criterion for cell in named.cells} == {"targeted:7"}
    assert named.identity == numbered.identity


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"target": "10"}, "target 10 is not a class of this model: choose from 0 to 9"),
        ({"target": "cat"}, "target 'cat' is not a class: give the number of one, or least_likely"),
        (
            {"target": "3", "attack": ("apgd_targeted",)},
            "targeted APGD chooses its own targets and cannot pursue targeted:3",
        ),
    ],
)
def test_a_target_that_cannot_be_met_is_refused_before_a_model_is_asked(
    flags: dict[str, Any], said: str, tiny_zoo: Path
) -> None:
    assert refusal(tiny_zoo, criterion="targeted", **flags).startswith(said)


def test_the_identity_survives_its_file(tiny_zoo: Path) -> None:
    flags: dict[str, Any] = {"attack": ("pgd", "square"), "explained": 2, "step_size": "1/255", "loss": ("auto", "dlr")}
    identity = tiny_request(tiny_zoo, limit=4, **flags).identity
    assert RunIdentity.from_json(json.loads(json.dumps(identity.to_json()))) == identity
