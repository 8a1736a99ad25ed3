"""A panel of broken defences and broken evaluations: none is called sound, and the reason is the right one."""

import pytest

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.checks.estimated_gradients import PASSES
from robustbench_bcos.bench.store import Store
from tests.bench.evidence.planted import IMAGES, LABELS, PANEL, Planted, evaluated, reasons, zoo
from tests.bench.own_request import own_request
from tests.bench.tiny_zoo import carry_out


def off_the_grid(planted: Planted) -> bool:
    return "grid" in planted.name


@pytest.mark.parametrize("planted", PANEL, ids=lambda planted: planted.name)
def test_a_broken_defence_is_suspect_for_the_right_reason(planted: Planted, request: pytest.FixtureRequest) -> None:
    if "estimated_gradients" in planted.reasons:
        request.getfixturevalue("whole_second_search")
    images = (IMAGES * 255).round() / 255 if off_the_grid(planted) else IMAGES
    row = evaluated(planted.build, images, **planted.options)
    assert row["trust"] == "suspect"
    assert set(planted.reasons) <= reasons(row)


def test_the_panel_has_no_name_twice_and_expects_checks_that_exist() -> None:
    names = [planted.name for planted in PANEL]
    assert len(names) == len(set(names))
    assert {reason for planted in PANEL for reason in planted.reasons} <= set(CHECKS)


def test_the_network_inside_is_sound_by_itself() -> None:
    row = evaluated(zoo)
    assert (row["trust"], reasons(row)) == ("sound", set())
    assert row["robust_correct"] < 0.8 * len(IMAGES)


def test_without_evidence_a_broken_defence_is_not_called_sound() -> None:
    (planted,) = (planted for planted in PANEL if planted.name == "downhill")
    row = evaluated(planted.build, evidence="off")
    assert (row["trust"], row["reasons"], row["worst_correct"]) == ("unchecked", "", row["robust_correct"])


def test_what_a_check_finds_is_taken_from_the_worst_case() -> None:
    (planted,) = (planted for planted in PANEL if planted.name == "downhill")
    row = evaluated(planted.build)
    assert row["worst_correct"] < row["robust_correct"] == row["clean_correct"]


def test_measured_gradients_cost_nothing_where_the_models_own_are_right() -> None:
    (planted,) = (planted for planted in PANEL if planted.name == "blurred")
    request = own_request(
        {"net": zoo(), "blurred": planted.build()},
        IMAGES[:24],
        LABELS[:24],
        10,
        eps=("0.5",),
        steps=(5,),
        evidence="quick",
    )
    with Store() as store:
        carry_out(request, store)
        found = {
            cell.model: [row for row in store.results(cell.key) if row.check == "estimated_gradients"]
            for cell in request.cells
        }
    assert found["net"] == []
    assert found["blurred"]
    assert all(row.passes == PASSES for row in found["blurred"])


def test_what_a_model_mends_off_the_grid_counts_as_broken() -> None:
    pictures = (IMAGES * 255).round() / 255
    (planted,) = (planted for planted in PANEL if planted.name == "mended off the grid of pictures")
    mended, honest = evaluated(planted.build, pictures), evaluated(zoo, pictures)
    assert mended["worst_correct"] <= honest["robust_correct"] < mended["clean_correct"]
    assert {"off_the_grid", "behind_rounding"}.isdisjoint(reasons(honest))
