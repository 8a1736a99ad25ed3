"""What each initial state, each parameter and the drive contribute to each predicted state."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.regression.training import Trained


@dataclass(frozen=True, kw_only=True, eq=False)
class Contributions:
    """Of B-cos networks they sum to the prediction; of conventional ones to nothing in particular."""

    shares: Tensor
    """(trajectory, time, state, input): of each initial state, each parameter, and last of the drive, the 1 of
    [z, 1 - z]; scaled."""
    outputs: Tensor
    """(trajectory, time, state): predictions, scaled."""

    @property
    def missing(self) -> Tensor:
        """What contributions leave of each prediction."""
        return self.outputs - self.shares.sum(dim=3)


def contributions(trained: Trained, inputs: Tensor) -> Contributions:
    """Explain all predictions of some trajectories.

    Gates of B-cos layers and step sizes are constants, so the prediction is linear in initial state, parameters and
    drive, and each has as its share its value times its weight.

    Args:
        trained: what is explained.
        inputs: scaled initial states and parameters.
    """
    model = trained.model
    leaf = inputs.detach().clone().requires_grad_()
    drive = torch.ones_like(leaf[:, :1]).requires_grad_()
    with torch.enable_grad(), explanation_mode(model):
        outputs = model(leaf, drive)
        rows = []
        for column in outputs.unbind(dim=1):
            weights = torch.autograd.grad(column.sum(), (leaf, drive), retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([weights[0] * leaf.detach(), weights[1]], dim=1))
    shape = (len(inputs), -1, model.states)
    shares = torch.stack(rows, dim=1)
    return Contributions(shares=shares.view(*shape, shares.shape[2]), outputs=outputs.detach().view(shape))
