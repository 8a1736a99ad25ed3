"""Maps of differences of logits: they sum to the difference, and keep the prediction."""

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos import load_model
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations import CONTRASTS
from robustbench_bcos.explanations.completeness import what_is_missing
from robustbench_bcos.explanations.contrast import Contrasted
from robustbench_bcos.explanations.explanation import explain


def by_hand(logits: Tensor, contrast: str) -> Tensor:
    rows = logits.tolist()
    if contrast == "mean":
        return logits - torch.tensor([[sum(row) / len(row)] for row in rows])
    return logits - torch.tensor([[max(row[:k] + row[k + 1 :]) for k in range(len(row))] for row in rows])


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_contributions_sum_to_the_difference_of_every_class(contrast: str, images: Tensor) -> None:
    model = load_model("digits-bcos-b2")
    found = explain(model, images, [list(range(10))] * 4, contrast=contrast)
    differences = by_hand(model(images), contrast)
    torch.testing.assert_close(found.logits, differences, rtol=1e-5, atol=1e-5)
    # Without the logit bias, which all classes share.
    torch.testing.assert_close(found.contributions.sum(dim=(2, 3)), differences, rtol=1e-5, atol=1e-5)
    alone = explain(model, images, contrast=contrast)
    assert torch.equal(alone.targets, model(images).argmax(dim=1))
    assert what_is_missing(model, alone, contrast) == ""
    # The logit bias is in no difference of logits, and would be missed.
    assert what_is_missing(model, alone) != ""


def test_a_tie_is_a_difference_of_nothing() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0]])
    assert Contrasted(nn.Identity(), "runner-up")(logits).tolist() == [[0.0, 0.0, -1.0]]


def test_what_cannot_be_contrasted_is_refused(images: Tensor) -> None:
    model = load_model("digits-bcos-b2")
    with pytest.raises(RequestError, match="unknown contrast 'meen': did you mean 'mean'"):
        explain(model, images, contrast="meen")
    with pytest.raises(RequestError, match="this model has one: leave contrast out"):
        Contrasted(nn.Identity(), "mean")(torch.ones(2, 1))
