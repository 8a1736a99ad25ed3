"""A zoo of two small networks that takes no training: random features, and heads fitted in closed form.

Good enough (about nine in ten digits, and seven in ten for the B-cos network) for attacks to have work to do.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.request import Request, make_request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.architectures import initialise
from robustbench_bcos.model_zoo.cards import ModelSpec
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.classifier import build_classifier, freeze
from robustbench_bcos.model_zoo.models import Model
from tests import drafts

BCOS = drafts.BCOS | {"arguments": {"temperature": 1e-4}}
NAMES = ("tiny-natural", "tiny-bcos")


def write_tiny_zoo(folder: Path) -> Path:
    """Two cards with their weights, the same bytes on every call."""
    for seed, card in enumerate((drafts.NATURAL, BCOS)):
        write_card(folder, card, seed)
    return folder


def tiny_request(zoo: Path, **flags: Any) -> Request:
    """Both networks on 30 digits, 3 steps; nothing is explained or checked unless it is asked for."""
    tiny = {"zoo": (zoo,), "model": NAMES, "limit": 30, "steps": (3,), "device": "cpu", "figures": False}
    return make_request(make_config(tiny | {"evidence": "off"} | flags))


def with_attack(request: Request, attack: AbstractAttack) -> Request:
    """The same, where every cell is attacked in this way."""
    return replace(request, cells=tuple(replace(cell, attack=attack) for cell in request.cells))


def measure(request: Request) -> pd.DataFrame:
    """The records of a run in memory."""
    with Store() as store:
        carry_out(request, store)
        return make_records(store, request.identity)


def carry_out(request: Request, store: Store) -> None:
    for _ in execute(request, store):
        pass


def model_of(request: Request, name: str) -> Model:
    """A model of the run with its fast copy."""
    return request.models.get(next(source for source in request.sources if source.name == name))


def write_card(folder: Path, card: dict[str, Any], seed: int) -> None:
    file = folder / f"{card['name']}.safetensors"
    classifier = freeze(build_classifier(ModelSpec.model_validate(card)))
    initialise(classifier.network, torch.Generator().manual_seed(seed))
    _fit_head(classifier)
    weights = {"file": file.name, "sha256": write_weights(classifier.network, file)}
    text = tomli_w.dumps({**card, "weights": weights, "licence": "CC0-1.0"})
    (folder / f"{card['name']}.toml").write_text(text, encoding="utf-8")


def _fit_head(classifier: Any) -> None:
    """Ridge regression of centred one-hot labels on mean features."""
    batch = EvalSubset.of(Digits("train"), 600).batch(0, 600)
    head, seen = classifier.network.fc, []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean(dim=(2, 3))))
    classifier(batch.images)
    hook.remove()
    targets = F.one_hot(batch.labels, 10).double() - 0.1
    linear = getattr(head, "linear", head)
    features = seen[0].double()
    if linear.bias is not None:
        features = torch.cat([features, torch.ones(600, 1)], dim=1)
    solution = _ridge(features, targets)
    weights = solution[:, : linear.weight.shape[1]]
    # A conventional network gets logits of several units; the scale of a B-cos filter does not matter.
    linear.weight.copy_(8 * weights.reshape(linear.weight.shape))
    if linear.bias is not None:
        linear.bias.copy_(8 * solution[:, -1])


def _ridge(features: Tensor, targets: Tensor) -> Tensor:
    strength = 1e-3 * features.square().sum() / features.shape[1]
    gram = features.T @ features + strength * torch.eye(features.shape[1])
    return torch.linalg.solve(gram, features.T @ targets).T
