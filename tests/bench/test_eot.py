"""``eot``: models that are random by design are attacked through an average of draws, and rows say of how many."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import robustbench_bcos as rb
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence.checks.other_draws import OtherDraws
from robustbench_bcos.bench.evidence.contexts import ModelContext
from robustbench_bcos.bench.request import Request, check_request
from robustbench_bcos.bench.schedule import Schedule
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.draws import AveragedDraws
from robustbench_bcos.model_zoo.models import LoadedModel, own_model

SUBSET = EvalSubset.of(Digits("test"), 20)
BATCH = SUBSET.batch(0, 20)


class Templates(nn.Module):
    """Nearest mean digit, after noise."""

    def __init__(self, noise: float, source: torch.Generator | None = None) -> None:
        super().__init__()
        train = EvalSubset.of(Digits("train"), 300).batch(0, 300)
        means = torch.stack([train.images[train.labels == label].mean(dim=0).flatten() for label in range(10)])
        self.means = nn.Parameter(means)
        self.noise = noise
        self.source = source

    def forward(self, images: Tensor) -> Tensor:
        if self.noise:
            images = images + self.noise * torch.randn(images.shape, generator=self.source)
        return -3 * torch.cdist(images.flatten(1), self.means).square()


def requested(*noises: float, **flags: object) -> Request:
    models = [LoadedModel(own_model(f"noise {noise}", Templates(noise).requires_grad_(False))) for noise in noises]
    tiny = {"dataset": "digits", "figures": False, "device": "cpu", "steps": (2,)}
    return check_request(make_config(tiny | flags), SUBSET, models)


def evaluated(noise: float, **options: object) -> pd.DataFrame:
    shown = (BATCH.images[:10], BATCH.labels[:10])
    settings = {"steps": 3, "device": "cpu", "evidence": "off"} | options
    return rb.evaluate(Templates(noise), *shown, norm="l2", eps=0.5, **settings)  # type: ignore[arg-type]


def test_a_random_model_has_a_number_that_can_be_repeated() -> None:
    (row,) = evaluated(0.2, eot=4).to_dict("records")
    assert row["draws"] == 4
    assert 0 < row["robust_correct"] < row["clean_correct"]
    (again,) = evaluated(0.2, eot=4, batch_size=3).to_dict("records")
    assert pd.Series(again).equals(pd.Series(row))


def test_other_draws_are_asked_for_only_of_averages() -> None:
    for network, expected in ((Templates(0.0), 0), (AveragedDraws(Templates(5.0), draws=2, seed=0), 1)):
        with torch.no_grad():
            predictions = predicted_classes(network(BATCH.images))
        shown = ModelContext(
            classifier=network,
            images=BATCH.images,
            labels=BATCH.labels,
            predictions=predictions,
            subset=SUBSET,
            rng=PerImageRng.of(0, BATCH.indices),
        )
        found = OtherDraws().examine(shown)
        assert bool(found.against.any()) == expected
        assert bool(found.passes) == expected


def test_models_that_are_not_random_are_not_averaged() -> None:
    request = requested(0.0, 0.2, eot=3)
    models = {source.name: request.models.get(source) for source in request.sources}
    assert not isinstance(models["noise 0.0"].classifier, AveragedDraws)
    assert isinstance(models["noise 0.2"].classifier, AveragedDraws)
    assert request.identity.eot == 3
    assert request.folder_name != requested(0.2, eot=4).folder_name
    assert Schedule(request=replace(request, config=request.config.model_copy(update={"jobs": 2}))).jobs == 1


@pytest.mark.parametrize(
    ("noises", "flags", "message"),
    [
        ([0.2], {}, "average over its draws with --eot"),
        ([0.0], {"eot": 5}, "eot 5 averages over the draws of random models, and noise 0.0 answer the same"),
        ([0.2], {"eot": 5, "compile": True}, "leave out compile"),
        ([0.2], {"eot": 0}, "eot"),
    ],
)
def test_what_eot_cannot_do_is_refused(noises: list[float], flags: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        requested(*noises, **flags)


def test_a_generator_of_its_own_stays_random_and_is_refused() -> None:
    model = own_model("own", Templates(0.5, torch.Generator()).requires_grad_(False))
    config = make_config({"dataset": "digits", "figures": False, "device": "cpu", "eot": 2})
    with pytest.raises(RequestError, match="though its draws are seeded: let it draw from torch's"):
        check_request(config, SUBSET, [LoadedModel(model)])
