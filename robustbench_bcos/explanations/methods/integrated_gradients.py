"""Integrated gradients."""

from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractAttachableMethod
from robustbench_bcos.explanations.methods._post_hoc import shown_together, weights_times_input
from robustbench_bcos.explanations.second_derivatives import Attached

POINTS = 32
"""Points of the Gauss-Legendre rule along the path."""


@final
@METHODS.registered("integrated_gradients")
class IntegratedGradients(AbstractAttachableMethod):
    """Mean gradient on the straight path from 0, times the encoded image (Sundararajan et al., 2017)."""

    of_modules = False
    points = POINTS

    def attached(self, network: nn.Module, encoded: Images) -> Attached:
        """The same rule, written out."""
        logits = network(encoded)
        chosen = logits.detach().argmax(dim=1)
        nodes, masses = (torch.from_numpy(part).to(encoded) / 2 for part in np.polynomial.legendre.leggauss(POINTS))
        path = (nodes + 0.5).view(-1, 1, 1, 1, 1) * encoded
        explained = network(path.flatten(0, 1)).gather(1, chosen.repeat(POINTS)[:, None])
        (gradients,) = torch.autograd.grad(
            explained.sum(), path, create_graph=torch.is_grad_enabled(), materialize_grads=True
        )
        weights = torch.einsum("p,p...->...", masses, gradients)
        return Attached(logits, (weights * encoded).sum(dim=1))

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        from captum import attr

        gradients = attr.IntegratedGradients(network, multiply_by_inputs=False)

        def mean_gradient(target: Tensor) -> Tensor:
            mean: Tensor = gradients.attribute(
                encoded.detach().clone(),
                target=target,
                n_steps=POINTS,
                internal_batch_size=max(len(encoded), shown_together(encoded)),
            )
            return mean

        return weights_times_input(network, encoded, targets, mean_gradient)
