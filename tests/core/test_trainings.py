"""What a suite has trained: names of models, and what is refused."""

import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import parse_table
from robustbench_bcos.core.trainings import Trainings

VALUES = {"recipe": "digits-bcos-b2", "seeds": [0, 3], "variations": {"a": {}, "b1.5": {"arguments": {"b": 1.5}}}}


def test_models_are_called_after_variation_and_seed() -> None:
    found = parse_table(Trainings, VALUES, "suite mine")
    assert found.models == ("a-seed0", "b1.5-seed0", "a-seed3", "b1.5-seed3")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": []}, "seeds: "),
        ({"seeds": [0, 0]}, "seeds: value error, seeds must be numbers of at least 0, each once"),
        ({"seeds": [-1, 0]}, "seeds: value error, seeds must be numbers of at least 0, each once"),
        ({"variations": {}}, "variations: "),
        ({"recipes": "x"}, "unknown key of suite mine 'recipes': did you mean 'recipe'?"),
    ],
)
def test_what_says_nothing_or_twice_the_same_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_table(Trainings, VALUES | change, "suite mine")
    assert said in str(caught.value)
