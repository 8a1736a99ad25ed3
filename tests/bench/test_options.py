"""The generated files are what the configuration says now, and ``evaluate`` shows and takes the same options."""

import inspect
from pathlib import Path

import pytest

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.bench.evaluation import DEFAULTS, evaluate
from robustbench_bcos.bench.options import EvaluateOptions
from robustbench_bcos.core.options import parameters
from tools.options import EXPLICIT, GENERATED


@pytest.mark.parametrize("file", GENERATED, ids=lambda file: file.name)
def test_generated_files_are_up_to_date(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == GENERATED[file](), "run `python -m tools.options`"


def test_the_signature_has_every_option_with_its_default() -> None:
    shown = inspect.signature(evaluate).parameters
    own = ["model", "images", "labels", "norm", "eps", "attack", "name", "return_adversarials", "progress"]
    assert list(shown) == [*own, *EvaluateOptions.__annotations__]
    assert {"norm", "eps", "attack"} == set(EXPLICIT)
    for name in EvaluateOptions.__annotations__:
        assert shown[name].default == DEFAULTS.get(name, getattr(RunConfig(), name)), name
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY


def test_options_that_name_other_models_and_images_are_not_among_them() -> None:
    left_out = {"model", "weights", "zoo", "dataset", "limit", "figures", "images", "threads", "jobs"}
    assert not left_out & set(inspect.signature(evaluate).parameters) - {"model", "images"}
    assert left_out <= set(parameters(RunConfig))
