"""B-cos linear layers of constant rows, with the gradient by the input in closed form.

With the response a to an input x of norm n, r = 1 / (n + epsilon) and c = |a| r, the output y is a scale s(c) of a, and

    dy/da = s + s' c,        dy/dx = dy/da w - s' c a r n' with n' = x / n.

Autograd keeps every intermediate of the norm, the cosine and the power, and runs through each again. Small layers, such
as those of a field that a solver asks hundreds of times, cost little else than that.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_bcos.model_zoo.bcos.closed_form import COSINE_EPSILON, not_differentiable_again

LINEAR_EPSILON = 1e-12


def respond(features: Tensor, rows: Tensor, bias: Tensor | None, *, b: float, max_out: int) -> Tensor:
    """Output of a B-cos linear layer, up to rounding; its gradient cannot be differentiated again.

    Args:
        features: of shape (..., input).
        rows: of shape (output * max_out, input); constants.
        bias: part of the response; a constant.
        b: the exponent.
        max_out: so many rows compete for an output.
    """
    outputs: Tensor = _ClosedForm.apply(features, rows, bias, b, max_out)
    return outputs


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        features: Tensor,
        rows: Tensor,
        bias: Tensor | None,
        b: float,
        max_out: int,
    ) -> Tensor:
        responses, winners = F.linear(features, rows, bias), None
        if max_out > 1:
            values, winners = responses.unflatten(-1, (-1, max_out)).max(dim=-1, keepdim=True)
            responses = values.squeeze(-1)
        norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        reciprocals = norms.add_(LINEAR_EPSILON).reciprocal_()
        cosines = responses.abs().mul_(reciprocals)
        if b == 2:
            # s = s' c = c: nothing has to be computed for the gradient.
            outputs, saved = cosines * responses, (cosines, responses)
        else:
            shifted = cosines + COSINE_EPSILON
            scale = shifted.pow(b - 1)
            curvature = cosines.div_(shifted).mul_(scale).mul_(b - 1)
            outputs = scale * responses
            saved = (scale.add_(curvature), responses.mul_(curvature))
        ctx.b, ctx.max_out = b, max_out
        ctx.save_for_backward(features, rows, reciprocals, winners, *saved)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise not_differentiable_again()
        features, rows, reciprocals, winners, slopes, norm_terms = ctx.saved_tensors
        by_responses = gradients * slopes
        by_norms = torch.linalg.vecdot(by_responses if ctx.b == 2 else gradients, norm_terms).unsqueeze(-1)
        if winners is not None:
            competitors = gradients.new_zeros(*winners.shape[:-1], ctx.max_out)
            by_responses = competitors.scatter_(-1, winners, by_responses.unsqueeze(-1)).flatten(-2)
        found = by_responses @ (rows * 2 if ctx.b == 2 else rows)
        # The epsilon is so small that it does not show where an input is not 0; where it is, this is 0, as autograd's.
        found.addcmul_(features, by_norms.mul_(reciprocals).mul_(reciprocals), value=-1)
        return found, None, None, None, None
