"""``evaluate``: the command line's rows for what is in memory, which it leaves as it was."""

import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import robustbench_bcos
from robustbench_bcos.bench.evaluation import evaluate
from robustbench_bcos.bench.records import COLUMNS
from robustbench_bcos.core.adapted import modules_of
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset
from tests.bench.tiny_zoo import measure, tiny_request
from tests.refusals import refused

IMAGES, LABELS, _ = EvalSubset.of(Digits("test"), 24).batch(0, 24)


class Small(nn.Module):
    """Everything that training and evaluation do differently, and logits that depend on every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.readout = nn.Linear(3 * 8 * 8, 10)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.readout.weight.copy_(torch.randn(10, 192, generator=generator))
            self.readout.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.readout(self.drop(self.norm(images)).flatten(1))


refusal = partial(refused, evaluate)


def own_labels(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES).argmax(dim=1)


def test_rows_are_those_of_a_run_on_the_same_images(tiny_zoo: Path) -> None:
    # Another name for the images is all that may differ. (Noise would: it belongs to an image's place in its dataset.)
    own = ["dataset", "subset", *(column for column in COLUMNS if column.endswith("_noise"))]
    options: dict[str, Any] = {"steps": (4, 6), "select": "last", "step_size": "0.4", "seed": 5, "explained": 12}
    options |= {"evidence": "off"}
    there = measure(tiny_request(tiny_zoo, model=("digits-bcos-b2",), limit=24, eps=("1.5", "1/4"), **options))
    here = evaluate("digits-bcos-b2", IMAGES, LABELS, "l2", ["1.5", "1/4"], device="cpu", **options)
    assert len(here) == 4
    pd.testing.assert_frame_equal(here.drop(columns=own), there.drop(columns=own), check_exact=True)
    assert here["robust_correct"].nunique() > 1
    assert here["explanation_cosine_true_attack"].notna().all()


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.LSTM(8, 4), nn.Embedding(4, 4)])
def test_a_network_of_layers_that_take_no_images_is_told_so(layer: nn.Module) -> None:
    said = refusal(nn.Sequential(layer), IMAGES, LABELS, "l2", 0.25)
    assert said.endswith(f"{type(layer).__name__} takes no images: put in front of it what makes its input of them")


def test_copies_among_the_images_are_warned_of(pytestconfig: pytest.Config) -> None:
    again = IMAGES[:1].repeat(3, 1, 1, 1)
    with pytest.warns(UserWarning, match="all 3 are the same picture") as told:
        evaluate(Small(), again, LABELS[:3], "l2", 0.25, steps=1, evidence="off", device="cpu")
    # Whatever checks shapes stands between the caller and each function.
    assert told[0].filename == __file__ or not pytestconfig.getoption("--no-shape-checks")


def test_what_an_attack_lacks_is_warned_of_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.warns(UserWarning, match=r"autoattack goes without fab .*: its numbers will be marked as suspect"):
        rows = evaluate(Small(), IMAGES[:2], LABELS[:2], "l2", 8, attack="autoattack", evidence="off", device="cpu")
    assert list(rows["trust"]) == ["suspect"]


def test_ones_own_model_is_attacked_like_the_zoos(tiny_zoo: Path) -> None:
    # The loss on its card is not known of a bare module, and neither are its family and training.
    model = robustbench_bcos.load_model("tiny-bcos", zoo=tiny_zoo)
    own = evaluate(model, IMAGES, LABELS, "l2", 0.25, loss="bce", steps=4, name="tiny-bcos", device="cpu")
    carded = measure(tiny_request(tiny_zoo, model=("tiny-bcos",), limit=24, eps=("0.25",), steps=(4,)))
    same = ["model", "parameters", "images", "epsilon", "loss", "clean_correct", "robust_correct", "forward_passes"]
    pd.testing.assert_frame_equal(own[same], carded[same])
    assert own[["family", "training", "architecture"]].iloc[0].tolist() == ["unknown", "unknown", "ResNet"]


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_shown_where_it_is_asked_for(progress: bool, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(Small(), IMAGES, LABELS, "l2", 0.1, steps=1, evidence="off", name="mine", progress=progress)
    told = capsys.readouterr()
    assert told.out == ""
    assert ("24 of 24 images: mine l2 0.1 pgd" in told.err) == progress


def test_the_model_is_left_as_it_was() -> None:
    model = Small().train()
    model.readout.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    evaluate(model, IMAGES, LABELS, "l2", 0.5, steps=2)
    assert all(module.training for module in model.modules())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_in_training_mode_is_evaluated_in_evaluation_mode() -> None:
    labels = own_labels(Small())
    rows = [evaluate(model, IMAGES, labels, "l2", 0.5, steps=2) for model in (Small().train(), Small().eval())]
    pd.testing.assert_frame_equal(*rows)
    assert rows[0]["clean_accuracy"].item() == 1.0


def test_images_labels_and_the_global_generator_are_left_as_they_were() -> None:
    model, images, labels = Small(), IMAGES.clone().requires_grad_(), LABELS.clone()
    state = torch.random.get_rng_state()
    evaluate(model, images, labels, "linf", "8/255", steps=2, start="random")
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)
    assert images.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_rows_have_the_columns_of_results_csv_one_for_each_cell() -> None:
    table = evaluate(Small(), IMAGES, LABELS, ["l2", "linf"], ["8/255", 0.25], steps=[1, 2], restarts=1)
    assert tuple(table.columns) == COLUMNS
    assert sorted(table[["norm", "eps", "steps"]].to_numpy().tolist()) == [
        [norm, eps, steps] for norm in ("l2", "linf") for eps in ("0.25", "8/255") for steps in (1, 2)
    ]
    assert set(table["model"]) == {"Small"}
    assert set(table["dataset"]) == {"memory"}


def test_threats_of_two_norms_have_radii_of_their_own() -> None:
    threats = {"threat": ["L2:0.5", "Linf:8/255"]}
    rows = evaluate(Small(), IMAGES, LABELS, steps=1, evidence="off", **threats)
    assert sorted(zip(rows["norm"], rows["eps"], strict=True)) == [("l2", "0.5"), ("linf", "8/255")]


@pytest.mark.parametrize("eps", [0.5, "0.5", [0.5], ("0.5",), np.float64(0.5)])
def test_a_radius_may_be_a_number_or_text_alone_or_in_a_list(eps: Any) -> None:
    table = evaluate(Small(), IMAGES, LABELS, "l2", eps, steps=1)
    assert table[["eps", "epsilon"]].to_numpy().tolist() == [["0.5", 0.5]]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES.numpy(), LABELS.numpy()),
        (IMAGES.double(), LABELS.tolist()),
        ((IMAGES * 255).round().byte().numpy(), torch.nn.functional.one_hot(LABELS)),
    ],
    ids=["arrays", "float64 and a list", "bytes and one-hot"],
)
def test_images_and_labels_may_be_arrays(images: Any, labels: Any) -> None:
    rows = evaluate(Small(), images, labels, "l2", 0.5, steps=2, step_size=0.1)
    plain = evaluate(Small(), IMAGES, LABELS, "l2", 0.5, steps=2, step_size="0.1")
    assert rows["robust_correct"].tolist() == plain["robust_correct"].tolist()
    assert rows["step_size"].tolist() == plain["step_size"].tolist()


def test_images_are_checked_before_the_model_sees_them() -> None:
    class Untouched(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("asked")

    assert "put channels first" in refusal(Untouched(), IMAGES.permute(0, 2, 3, 1), LABELS, "l2", 0.5)
    assert "one class for each of the 24 images" in refusal(Untouched(), IMAGES, LABELS[1:], "l2", 0.5)


class Wrapped(nn.Module):
    """Logits of a network in another form."""

    def __init__(self, network: nn.Module, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network = network
        self.form = form

    def forward(self, images: Tensor) -> Any:
        return self.form(self.network(images))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "form",
    [
        lambda small: Wrapped(small, lambda logits: (logits, logits.mean())),
        lambda small: Wrapped(small, lambda logits: {"logits": logits, "hidden": logits[:, :4]}),
        lambda small: lambda images: small(images),
        lambda small: small.double(),
        lambda small: torch.jit.script(small),
    ],
    ids=["tuple", "dict", "function", "double", "script"],
)
def test_models_of_any_form_are_evaluated_attacked_and_explained_alike(form: Callable[[nn.Module], Any]) -> None:
    plain, labels = Small().eval(), own_labels(Small())
    given = form(Small().train())
    modes = [module.training for module in modules_of(given)]
    rows = [evaluate(one, IMAGES, labels, "l2", 0.5, steps=2, evidence="off") for one in (plain, given)]
    same = ["clean_correct", "robust_correct", "forward_passes"]
    pd.testing.assert_frame_equal(rows[0][same], rows[1][same])
    assert 0 < rows[0]["robust_correct"].item() < 24
    found = [robustbench_bcos.PGD(steps=2)(one, IMAGES, labels, "l2", 0.5).adversarials for one in (plain, given)]
    # In float64 other digits are rounded than in float32.
    torch.testing.assert_close(*found, atol=1e-3, rtol=0)
    maps = [robustbench_bcos.explain(one, IMAGES).contributions.float() for one in (plain, given)]
    torch.testing.assert_close(*maps, atol=1e-4, rtol=1e-4)
    assert [module.training for module in modules_of(given)] == modes


def test_one_output_that_is_a_probability_is_suspect_and_a_logit_is_not() -> None:
    labels = (own_labels(Small()) > 4).long()
    of_one = Small()
    with torch.no_grad():
        of_one.readout = nn.Linear(192, 1)
        of_one.readout.weight.copy_(Small().readout.weight[:1])
        labels = (of_one.eval()(IMAGES) > 0).long().squeeze(1)
    rows = {
        name: evaluate(Wrapped(of_one, form), IMAGES, labels, "l2", 0.1, steps=2).iloc[0]
        for name, form in {"logit": lambda logit: logit, "sigmoid": lambda logit: logit.sigmoid().squeeze(1)}.items()
    }
    assert rows["logit"].clean_accuracy == 1
    assert "saturated_output" not in rows["logit"].reasons
    assert "saturated_output" in rows["sigmoid"].reasons
    assert "one_probability" not in rows["logit"].reasons
    # None of the first class is right: then nothing can be said against the attack, and yet the number is wrong.
    first = evaluate(Wrapped(of_one, torch.sigmoid), IMAGES[labels == 0], labels[labels == 0], "l2", 0.1, steps=2)
    assert first["reasons"].str.startswith("one_probability").all()
    assert list(first["trust"]) == ["suspect"]


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_switched_off_by_the_caller(switch: Callable[[], Any]) -> None:
    labels = own_labels(Small())
    expected = evaluate(Small(), IMAGES, labels, "l2", 0.5, steps=2, evidence="off")
    with switch():
        model, images = Small(), IMAGES.clone()
        rows = evaluate(model, images, labels, "l2", 0.5, steps=2, evidence="off")
        robustbench_bcos.PGD(steps=1)(model, images, labels, "l2", 0.5)
        robustbench_bcos.explain(model, images)
    # And what was made there, used elsewhere.
    robustbench_bcos.PGD(steps=1)(model, images, labels, "l2", 0.5)
    robustbench_bcos.explain(model, images)
    pd.testing.assert_frame_equal(rows, expected)


@pytest.mark.parametrize("fails", [False, True])
def test_an_attack_changes_no_running_statistics_and_gives_every_mode_back(fails: bool) -> None:
    model = Small().train()
    model.drop.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if fails:
        with pytest.raises(RequestError, match="classes from 0 to 9"):
            robustbench_bcos.PGD(steps=1)(model, IMAGES, LABELS + 7, "l2", 0.5)
    else:
        found = robustbench_bcos.PGD(steps=2)(model, IMAGES, LABELS, "l2", 0.5)
        again = robustbench_bcos.PGD(steps=2)(Small().eval(), IMAGES, LABELS, "l2", 0.5)
        torch.testing.assert_close(found.adversarials, again.adversarials)
    assert [module.training for module in (model, model.norm, model.drop)] == [True, True, False]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_that_cannot_be_copied_is_asked_itself_and_left_as_it_was() -> None:
    model = Wrapped(Small(), lambda logits: logits)
    model.lock = threading.Lock()  # type: ignore[assignment]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    rows = evaluate(model.train(), IMAGES, own_labels(Small()), "l2", 0.5, steps=2, evidence="off")
    assert rows["architecture"].item() == "Wrapped"
    assert rows["clean_accuracy"].item() == 1
    assert model.network.training
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_an_attack_may_be_an_object_and_stand_beside_names() -> None:
    own = robustbench_bcos.PGD(steps=3, loss="margin", start="random")
    rows = evaluate(Small(), IMAGES, LABELS, "l2", [0.25, 0.5], attack=[own, "noise"], evidence="off")
    named = evaluate(Small(), IMAGES, LABELS, "l2", [0.25, 0.5], steps=3, loss="margin", start="random", evidence="off")
    assert sorted(rows["attack"]) == ["noise", "noise", "pgd", "pgd"]
    found = rows[rows["attack"] == "pgd"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.dropna(axis=1), named.dropna(axis=1))


@pytest.mark.parametrize("model", [Small(), "digits-natural"])
def test_a_row_can_be_given_a_name(model: nn.Module | str) -> None:
    assert evaluate(model, IMAGES, LABELS, "l2", 0.5, steps=1, name="mine")["model"].tolist() == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((Small(), IMAGES, LABELS, "l3", 0.5), {}, "unknown norm 'l3': did you mean 'l2'"),
        ((Small(), IMAGES, LABELS, "linf", 8.0), {}, "did you mean 8/255?"),
        ((Small(), IMAGES, LABELS, "l2"), {}, "threat is missing: give norm and eps, or a threat such as linf:8/255"),
        ((Small(), IMAGES, LABELS), {}, "threat is missing"),
        ((Small(), IMAGES, LABELS, "l2", -1.0), {}, "must be finite and not negative"),
        (
            (Small(), IMAGES, LABELS, "l2", 0.5),
            {"steps": 0},
            "steps.0: input should be greater than or equal to 1, got 0",
        ),
        ((Small(), IMAGES, LABELS, "l2", 0.5), {"limit": 3}, "limit is about models and images that have names"),
        (
            (Small(), IMAGES, LABELS, "l2", 0.5),
            {"executor": "processes"},
            "leave it out, or give the command `run` the model as",
        ),
        ((Small(), IMAGES, LABELS, "l2", 0.5), {"stepsize": 3}, "did you mean 'step_size'"),
        ((Small(), IMAGES, LABELS, "l2", 0.5), {"space": "encoded"}, "has no encoding"),
        ((Small(), IMAGES, LABELS + 1, "l2", 0.5), {}, "for each of 24 images, got 24 from 1 to 10: number them"),
        ((Small(), IMAGES * 255, LABELS, "l2", 0.5), {}, "values in [0, 1]"),
        ((Small(), IMAGES[:, :1].expand(-1, 4, -1, -1)[:, :3].flip(0) * 2, LABELS, "l2", 0.5), {}, "[0, 1]"),
        (
            (Small(), IMAGES, LABELS, "l2", 0.5),
            {"explained": 1, "explanation": "dynamic_weights"},
            "conventional: choose",
        ),
        ((Small(), IMAGES, LABELS, "l2", 0.5), {"explained": -1}, "explained: input should be greater than or equal"),
        ((Small(), IMAGES, LABELS, "l2", 0.5), {"attack": Small()}, "Small: register it as docs/extending.md shows"),
        ((Small(), IMAGES, LABELS, "l2", 0.5), {"attack": ["pgd", len]}, "got a builtins.builtin_function_or_method"),
        ((Small(), IMAGES, LABELS, "l2", 0.5), {"attack": robustbench_bcos.PGD}, "got the class PGD: give PGD()"),
        ((Small(), IMAGES, LABELS, "l2", 0.5), {"targets": [3] * 24}, "targets is how many classes an attack tries"),
        ((Small(), IMAGES, LABELS, "l2", 0.5), {"target": LABELS}, "target lists classes: give target, one class that"),
        (("digits-*", IMAGES, LABELS, "l2", 0.5), {}, "evaluate one at a time"),
        (("digits-naturl", IMAGES, LABELS, "l2", 0.5), {}, "did you mean 'digits-natural'"),
        (("digits-natural", IMAGES[:, :, :4], LABELS, "l2", 0.5), {}, "takes images of 8x8 pixels"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_in_a_sentence(
    arguments: Any, options: dict[str, Any], said: str
) -> None:
    assert said in refusal(*arguments, **options)


def test_a_model_that_fails_where_gradients_are_asked_for_is_refused_before_it_is_attacked() -> None:
    class Filtered(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(images.numpy().copy()).flatten(1)[:, :10]

    with pytest.raises(
        RequestError, match=r"'Filtered' fails where gradients are asked for \(.*\): detach what has none"
    ):
        evaluate(Filtered(), IMAGES, LABELS, "l2", 0.5, steps=2)


@pytest.mark.parametrize(("threat", "eps"), [("Linf", "0.1"), ("L2", "0.5"), ("linf:8/255", "8/255")])
def test_a_benchmark_takes_the_radius_that_the_field_reports_on_a_dataset(threat: str, eps: str) -> None:
    model = robustbench_bcos.load_model("digits-natural")
    (row,) = robustbench_bcos.benchmark(
        model, "digits", threat, "pgd", limit=20, steps=2, evidence="off", name="mine"
    ).to_dict("records")
    assert (row["model"], row["dataset"], row["images"], row["eps"]) == ("mine", "digits", 20, eps)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "folder:here"}, "eps is missing: give the radius of norm linf"),
        ({"dataset": "cifar10", "threat": "L1"}, "eps is missing: give the radius of norm l1"),
        ({"dataset": "cifar10"}, "dataset cifar10 needs data_dir"),
        ({"dataset": "digit"}, "unknown dataset 'digit'"),
        ({"dataset": "digits", "step": 3}, "unknown option 'step'"),
    ],
)
def test_a_benchmark_that_cannot_be_carried_out_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        robustbench_bcos.benchmark("digits-natural", **options)
