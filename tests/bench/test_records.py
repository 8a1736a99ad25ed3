"""Records: the columns that were promised, numbers that can be recomputed from the store, and nothing made up."""

import dataclasses
import itertools
import math
from typing import Any

import pandas as pd
import pytest

from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence.check import AbstractCellCheck, AbstractModelCheck, checks_of
from robustbench_bcos.bench.identity import ExplainedImages, RunIdentity
from robustbench_bcos.bench.records import (
    COLUMNS,
    EVIDENCE_COLUMNS,
    make_distances,
    make_evidence,
    make_images,
    make_records,
    make_similarities,
)
from robustbench_bcos.bench.rows import DistanceRow, ResultRow, SimilarityRow
from robustbench_bcos.bench.store import Store
from tests.bench.by_hand import (
    clean_row,
    distance_row,
    evidence_row,
    identity_of,
    model_row,
    not_attacked,
    verdict_row,
)

PROMISED = """
    model, family, architecture, parameters, training, dataset, subset, images, attack, norm, eps, epsilon, steps,
    step_size, loss, restarts, start, select, space, seed, clean_correct, clean_accuracy, robust_correct,
    robust_accuracy, ci_low, ci_high, worst_correct, robust_accuracy_worst, trust, reasons, degenerate_gradient_share,
    mean_perturbation, forward_passes, backward_passes, weights_sha256, version, b, explanation, explained_images,
    explanation_changed_attack, explanation_changed_noise, explanation_changed_other, encoding, queries, targets,
    evidence, evidence_images, evidence_passes, attack_backend, inherited, criterion, options,
    assumed, draws, texts,
attacked_maps, explanation_fooled_most, explanation_withstood_least,
    worst_ci_low, worst_ci_high
"""
DIFFERENCES = ("cosine", "pearson", "spearman", "topk", "ssim", "mass", "centre")
MODEL = model_row(
    training="adversarial l2 0.5", explanation="dynamic_weights", texts="2 classes in 1 templates, 0123456789ab"
)
LABELS = (1, 1, 1, 1, 2)


def cells(**flags: Any) -> list[Cell]:
    return make_cells(make_config({"eps": ("8/255",), "norm": ("linf",), **flags}), ["net"])


def identity(planned: list[Cell], **changes: Any) -> RunIdentity:
    return identity_of(*planned, **{"seed": 7, "version": "1.2.3"} | changes)


def asked(*images: int, pictured: tuple[int, ...] = ()) -> ExplainedImages:
    return ExplainedImages(method="auto", images=images, pictured=pictured)


def fill(store: Store, cell: Cell, predictions: tuple[int, ...] = (1, 0, -1, 1), images: int = 5) -> None:
    """Of five images four are classified correctly; one by one they become what is predicted."""
    store.add(MODEL, *(clean_row(image, label) for image, label in enumerate(LABELS[:images])))
    for image, prediction in enumerate(predictions):
        measured = {"size": 0.01 * (image + 1), "degenerate_gradient": image == 3, "forward_passes": 3 + image}
        store.add(verdict_row(cell, image, prediction=prediction, **measured))
    store.add(*(not_attacked(cell, image) for image in range(len(predictions), images)))


def one_record(store: Store, cell: Cell) -> dict[str, Any]:
    fill(store, cell)
    (record,) = make_records(store, identity([cell])).to_dict(orient="records")
    return {str(key): value for key, value in record.items()}


def test_columns_are_those_that_were_promised_in_that_order(store: Store) -> None:
    promised = [name.strip() for name in PROMISED.split(",")]
    points = itertools.product(DIFFERENCES, ("true", "predicted"), ("attack", "noise", "other"))
    promised += ["_".join(["explanation", *point]) for point in points]
    assert list(COLUMNS) == promised
    (cell,) = cells()
    assert list(one_record(store, cell)) == promised
    assert list(make_records(store, identity([])).columns) == promised


def test_a_record_says_what_was_measured(store: Store) -> None:
    (cell,) = cells(steps=(20,), restarts=(3,), select="last")
    record = one_record(store, cell)
    assert {
        key: record[key] for key in ("family", "architecture", "parameters", "training", "weights_sha256", "texts")
    } == {
        key: getattr(MODEL, key)
        for key in ("family", "architecture", "parameters", "training", "weights_sha256", "texts")
    }
    assert (record["dataset"], record["subset"], record["seed"], record["version"]) == (
        "digits",
        "0123456789ab",
        7,
        "1.2.3",
    )
    assert (record["images"], record["clean_correct"], record["robust_correct"]) == (5, 4, 2)
    assert (record["clean_accuracy"], record["robust_accuracy"]) == (0.8, 0.4)
    assert record["mean_perturbation"] == 0.025
    assert record["degenerate_gradient_share"] == 0.25
    assert (record["forward_passes"], record["backward_passes"]) == (3 + 4 + 5 + 6, 8)
    assert (record["restarts"], record["select"], record["start"], record["space"]) == (3, "last", "image", "image")


def test_without_evidence_trust_is_unchecked_and_the_worst_is_what_was_measured(store: Store) -> None:
    (cell,) = cells()
    record = one_record(store, cell)
    assert (record["trust"], record["reasons"]) == ("unchecked", "")
    assert record["worst_correct"] == record["robust_correct"]
    assert record["robust_accuracy_worst"] == record["robust_accuracy"]


def wilson_by_hand(correct: int, n: int) -> tuple[float, float]:
    p, z = correct / n, 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def test_the_interval_is_wilsons(store: Store) -> None:
    (cell,) = cells()
    record = one_record(store, cell)
    assert (record["ci_low"], record["ci_high"]) == pytest.approx(wilson_by_hand(2, 5), rel=1e-12)


def test_a_radius_is_kept_as_it_was_written_with_its_value_beside_it(store: Store) -> None:
    (cell,) = cells()
    record = one_record(store, cell)
    assert (record["eps"], record["epsilon"]) == ("8/255", 8 / 255)


@pytest.mark.parametrize(("flags", "size"), [({}, 2.5 * 8 / 255 / 20), ({"step_size": "2/255"}, 2 / 255)])
def test_the_step_size_is_the_one_that_was_taken(flags: dict[str, Any], size: float, store: Store) -> None:
    (cell,) = cells(**flags)
    assert one_record(store, cell)["step_size"] == pytest.approx(size, rel=1e-15)


def test_auto_is_resolved_to_the_models_own_loss(store: Store) -> None:
    for cell, loss in zip(cells(loss=("auto", "margin")), ("bce", "margin"), strict=True):
        assert one_record(store, cell)["loss"] == loss


def test_what_an_attack_does_not_have_is_left_empty(store: Store) -> None:
    (cell,) = cells(attack=("noise",))
    record = one_record(store, cell)
    assert (record["loss"], record["steps"]) == ("", 0)
    assert pd.isna(record["step_size"])


def test_a_mean_over_nothing_is_empty_and_not_zero(store: Store) -> None:
    robust, spared = cells(steps=(20, 100))
    fill(store, robust, (1, 1, 1, 1))
    fill(store, spared, ())
    first, second = make_records(store, identity([robust, spared])).to_dict(orient="records")
    assert (first["robust_correct"], first["degenerate_gradient_share"]) == (4, 0.25)
    assert pd.isna(first["mean_perturbation"])
    # Images that are not worth an attack, as those of a target class, stay what they are.
    assert (second["clean_correct"], second["clean_accuracy"], second["robust_accuracy"]) == (4, 0.8, 0.8)
    assert pd.isna(second["mean_perturbation"])
    assert pd.isna(second["degenerate_gradient_share"])


def test_a_cell_is_reported_when_it_is_complete_and_in_the_order_of_the_plan(store: Store) -> None:
    planned = cells(steps=(20, 100, 50))
    fill(store, planned[2])
    fill(store, planned[0])
    fill(store, planned[1], images=4)
    assert make_records(store, identity(planned))["steps"].tolist() == [20, 50]


def test_the_last_digits_of_a_mean_size_are_not_recorded(store: Store) -> None:
    (cell,) = cells()
    fill(store, cell)
    record = one_record(store, cell)
    store.add(verdict_row(cell, 1, prediction=0, size=0.02 * (1 + 1e-7)))
    assert make_records(store, identity([cell]))["mean_perturbation"].item() == record["mean_perturbation"]


# Explanations


def explain(store: Store, cell: Cell, rows: dict[tuple[int, str, str], tuple[bool, float | None]]) -> None:
    """The first measure as given, the others one and two and so on larger."""
    for (image, comparison, explained_class), (changed, value) in rows.items():
        values = {name: None if value is None else value + place for place, name in enumerate(DIFFERENCES)}
        store.add(
            SimilarityRow(
                cell=cell.key,
                image=image,
                comparison=comparison,
                explained_class=explained_class,
                changed=changed,
                values=values,
            )
        )


def test_means_are_over_explained_images_that_were_classified_correctly(store: Store) -> None:
    (cell,) = cells()
    fill(store, cell)
    # Of five images the last is misclassified, and the fourth is only to be looked at.
    explain(store, cell, {(image, "attack", "true"): (image > 0, 0.1 * image) for image in range(5)})
    explain(store, cell, {(image, "attack", "predicted"): (image > 0, 0.3) for image in range(5)})
    explain(store, cell, {(0, "other", "true"): (True, 0.5), (1, "other", "true"): (False, None)})
    run = identity([cell], explained=asked(0, 1, 2, 4, pictured=(3,)))
    (record,) = make_records(store, run).to_dict(orient="records")
    assert (record["explanation"], record["b"], record["explained_images"]) == ("dynamic_weights", 2.0, 3)
    assert record["explanation_changed_attack"] == pytest.approx(2 / 3)
    assert pd.isna(record["explanation_changed_noise"])
    for place, name in enumerate(DIFFERENCES):
        assert record[f"explanation_{name}_true_attack"] == pytest.approx(place + 0.1)
        assert record[f"explanation_{name}_predicted_attack"] == pytest.approx(place + 0.3)
        # Where a measure is not defined it is no zero.
        assert record[f"explanation_{name}_true_other"] == place + 0.5
        assert pd.isna(record[f"explanation_{name}_true_noise"])
    table = make_similarities(store, run)
    counted = table[table["counted"] == 1]
    assert set(counted["image"]) == {0, 1, 2}
    assert set(table["image"]) == set(range(5))
    assert list(table.columns) == ["cell", "image", "comparison", "explained_class", "changed", "counted", *DIFFERENCES]


def test_means_have_four_significant_digits(store: Store) -> None:
    (cell,) = cells()
    fill(store, cell)
    explain(store, cell, {(0, "attack", "true"): (False, 0.123456), (1, "attack", "true"): (False, 0.123457)})
    (record,) = make_records(store, identity([cell], explained=asked(0, 1))).to_dict(orient="records")
    assert (record["explanation_cosine_true_attack"], record["explanation_pearson_true_attack"]) == (0.1235, 1.123)


@pytest.mark.parametrize("explained", [asked(0, 1, 2), asked(0, 1, pictured=(2,))])
def test_a_cell_is_complete_when_all_that_is_to_be_explained_is(explained: ExplainedImages, store: Store) -> None:
    (cell,) = cells()
    fill(store, cell)
    for image in range(3):
        assert make_records(store, identity([cell], explained=explained)).empty
        explain(store, cell, {(image, "attack", "true"): (False, 0.5)})
    assert len(make_records(store, identity([cell], explained=explained))) == 1


def test_a_run_that_explains_nothing_has_no_rows_and_no_means(store: Store) -> None:
    (cell,) = cells()
    record = one_record(store, cell)
    assert record["explained_images"] == 0
    assert all(pd.isna(record[name]) for name in COLUMNS if name.startswith(("explanation_",)))
    assert make_similarities(store, identity([cell])).empty


def test_a_record_cannot_be_changed() -> None:
    from robustbench_bcos.bench.records import Record

    assert Record.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in dataclasses.fields(Record))


# Further attacks, evidence, distances


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"attack": ("square",), "queries": 7}, (0, None, "", "random", 7, 0)),
        ({"attack": ("fab",), "targets": 3, "steps": (5,)}, (5, None, "", "image", 0, 3)),
        ({"attack": ("autoattack",)}, (100, None, "", "random", 5000, 9)),
        (
            {"attack": ("apgd_targeted",), "targets": 3, "steps": (5,)},
            (5, None, "targeted_dlr", "random", 0, 3),
        ),
        ({"attack": ("pgd",), "queries": 7, "targets": 3, "steps": (5,)}, (5, 2.5 * 8 / 255 / 5, "bce", "image", 0, 0)),
    ],
    ids=["square", "fab", "autoattack", "targets", "pgd"],
)
def test_a_record_has_the_settings_that_its_attack_has(
    flags: dict[str, Any], said: tuple[Any, ...], store: Store
) -> None:
    (cell,) = cells(**flags)
    record = one_record(store, cell)
    names = ("steps", "step_size", "loss", "start", "queries", "targets")
    assert tuple(None if pd.isna(record[name]) else record[name] for name in names) == said


def test_a_run_without_evidence_has_spent_nothing_on_it(store: Store) -> None:
    (cell,) = cells()
    record = one_record(store, cell)
    assert (record["evidence"], record["evidence_images"], record["evidence_passes"]) == ("off", 0, 0)
    assert make_evidence(store, identity([cell])).empty
    assert list(make_evidence(store, identity([cell])).columns) == list(EVIDENCE_COLUMNS)


def test_what_evidence_cost_is_counted_over_checks_and_its_images_once(store: Store) -> None:
    (cell,) = cells()
    fill(store, cell)
    for check in checks_of("quick", AbstractCellCheck):
        found = {"noise": {0: (5, True), 3: (7, False)}, "black_box": {3: (100, False)}}.get(check.name, {})
        rows = [
            ResultRow(
                subject=cell.key,
                check=check.name,
                image=image,
                part="sample",
                broken=broken,
                against=broken,
                value=None,
                passes=passes,
            )
            for image, (passes, broken) in found.items()
        ]
        store.add(evidence_row(cell.key, check.name), *rows)
    for check in checks_of("quick", AbstractModelCheck):
        store.add(evidence_row("net", check.name))
    quick = identity([cell], evidence="quick")
    (record,) = make_records(store, quick).to_dict(orient="records")
    assert (record["evidence_images"], record["evidence_passes"]) == (2, 5 + 7 + 100)
    # Of two that withstood the attack, one fell to noise.
    assert (record["robust_correct"], record["worst_correct"], record["robust_accuracy_worst"]) == (2, 1, 0.2)
    # Each of the two has an interval of its own.
    assert (record["ci_low"], record["ci_high"]) == pytest.approx(wilson_by_hand(2, 5), rel=1e-12)
    assert (record["worst_ci_low"], record["worst_ci_high"]) == pytest.approx(wilson_by_hand(1, 5), rel=1e-12)
    assert (record["robust_accuracy"], record["trust"]) == (0.4, "suspect")
    assert "noise" in record["reasons"].split("; ")
    table = make_evidence(store, quick)
    (noise,) = table[table["check"] == "noise"].to_dict("records")
    assert (noise["cell"], noise["status"], noise["examined"], noise["against"]) == (cell.key, "undermined", 2, 1)
    assert noise["sentence"].startswith("1 of 2 images broken by random noise")


def test_distances_are_reported_when_those_of_all_images_are_known(store: Store) -> None:
    planned = cells(norm=("linf", "l2"), eps=("0.1", "0.2"))
    known = {
        norm: [distance_row(image, 0.0, image / 4 or None, norm=norm) for image in range(count)]
        for norm, count in (("l2", 5), ("linf", 4))
    }
    for rows in known.values():
        # Backwards: no reader may rely on the order.
        store.add(*rows[::-1])
    table = make_distances(store, identity(planned))
    assert table[["norm", "image"]].to_numpy().tolist() == [["l2", image] for image in range(5)]
    assert table["high"].isna().tolist() == [True, False, False, False, False]
    store.add(distance_row(4, 0.0, 0.5, norm="linf"))
    table = make_distances(store, identity(planned))
    assert table["norm"].tolist() == ["linf"] * 5 + ["l2"] * 5
    assert list(table.columns) == list(DistanceRow.columns())


# Images


def test_every_image_of_a_complete_cell_is_a_row_that_adds_up_to_the_numbers(store: Store) -> None:
    small, large, begun = cells(eps=("2/255", "8/255", "16/255"))
    store.add(MODEL, *(clean_row(image, label, prediction=1) for image, label in enumerate(LABELS)))
    # The last image is wrong without an attack; a smaller epsilon breaks what the larger one does not.
    for cell, predictions in ((small, (1, 0, 1, 0)), (large, (1, -1, 0, 1))):
        store.add(*(verdict_row(cell, image, prediction=one) for image, one in enumerate(predictions)))
        store.add(not_attacked(cell, 4))
    store.add(verdict_row(begun, 0))
    whole = identity([small, large, begun], evidence="quick")
    images = make_images(store, whole)
    assert images["cell"].unique().tolist() == [small.key, large.key]
    assert images["image"].tolist() == [0, 1, 2, 3, 4] * 2
    assert images["robust"].tolist() == [1, 0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert images["robust_worst"].tolist() == [1, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    assert images["attacked"].tolist() == [1, 1, 1, 1, 0] * 2
    assert images["prediction_attacked"].tolist()[5:9] == [1, -1, 0, 1]
    assert (
        images["prediction_attacked"].isna().tolist()
        == images["size"].isna().tolist()
        == [False] * 4 + [True] + [False] * 4 + [True]
    )
    records = make_records(store, whole)
    for sums, column in (("robust_correct", "robust"), ("worst_correct", "robust_worst"), ("clean_correct", "correct")):
        assert images.groupby("cell", sort=False)[column].sum().tolist() == records[sums].tolist()
    written = images.to_csv(index=False).splitlines()[1].split(",")
    assert written[2:] == "0,1,1,1,1,0,1,1,1,0.25,,,0,3,2,0,unchecked".split(",")
