"""Models that are random by design, as the functions that they are on average (expectation over transformation).

The mean of the logits over N draws is one differentiable function: its gradient is the mean of the draws' gradients
(Athalye et al., 2018). The draws are always the same ones, so that an attack and its judge ask the same function, and
the attack is one that knows them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustbench_bcos.core.rng import global_generators
from robustbench_bcos.core.types import Images, Logits
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.sources.model import Model


class AveragedDraws(nn.Module):
    """The mean of a random network's logits over draws that depend on seed and number of the draw alone.

    Networks draw from global generators, which know nothing of images. So each image is shown by itself, and every
    image meets the same draws: neither its batch nor its place in it changes an answer.

    Args:
        network: frozen, but for what it draws.
        draws: how many.
        seed: of the draws.
        stream: which of many sequences of draws.
    """

    def __init__(self, network: nn.Module, *, draws: int, seed: int, stream: int = 0) -> None:
        super().__init__()
        self.network = network
        self.draws = draws
        self.seed = seed
        self.stream = stream

    def forward(self, images: Images) -> Logits:
        """Images, encoded or not, to mean logits."""
        return torch.cat([self._mean(image) for image in images.split(1)])

    def _mean(self, image: Tensor) -> Tensor:
        logits = []
        for draw in range(self.draws):
            with global_generators(self.seed, "draws", self.stream, draw, device=image.device):
                logits.append(self.network(image))
        return torch.stack(logits).mean(dim=0)


def average_draws(model: Model, *, draws: int, seed: int) -> Model:
    """The same model, each answer of which averages so many draws; an encoding stays what comes first."""
    classifier = model.classifier
    if isinstance(classifier, ImageClassifier):
        averaged: nn.Module = ImageClassifier(
            classifier.encoding, AveragedDraws(classifier.network, draws=draws, seed=seed)
        )
    else:
        averaged = AveragedDraws(classifier, draws=draws, seed=seed)
    return replace(model, classifier=freeze(averaged))


def draws_of(classifier: nn.Module) -> int:
    """Draws that an answer averages; 1 for a model that is not averaged."""
    return max((module.draws for module in _averages(classifier)), default=1)


@contextmanager
def other_draws(classifier: nn.Module) -> Iterator[None]:
    """Average as many other draws inside the ``with``."""
    for module in _averages(classifier):
        module.stream += 1
    try:
        yield
    finally:
        for module in _averages(classifier):
            module.stream -= 1


def _averages(classifier: nn.Module) -> list[AveragedDraws]:
    return [module for module in classifier.modules() if isinstance(module, AveragedDraws)]
