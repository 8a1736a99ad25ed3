#!/usr/bin/env bash
# A torch function marked as differentiable once is silently a constant in second derivatives, and no error is raised.
#
# Version: torch 2.14.1.
# Guess: whoever differentiates the gradient of such a function meets "trying to differentiate twice a function that was
#   marked with @once_differentiable", as the decorator exists for.
# Behaviour: the error sits on a branch of the graph that does not lead to the input, and `torch.autograd.grad` visits
#   what leads to the inputs it was given alone: it never raises. `backward()` raises, but only where the gradient that
#   comes in requires one itself; behind a sum or a linear layer it does not, and there is no error at all. What the
#   function gives back counts as a constant, so a saliency map attacked through it gets wrong gradients in silence.
# Output seen: for x^3 at 2, the derivative of x * (x^3)' is 12 by grad and by backward where 36 is right; for (x^3)^2,
#   that of x times its gradient by grad is 192 where 1152 is right, and backward raises.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
cat > "$folder/once.py" <<'PYTHON'
import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * slope * x**2


def product(function):
    """Input times gradient, and the input."""
    x = torch.tensor([2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return (gradient * x).sum(), x


def by_grad(function):
    attributed, x = product(function)
    return float(torch.autograd.grad(attributed, x)[0])


def by_backward(function):
    attributed, x = product(function)
    attributed.backward()
    return float(x.grad)


def behind_a_square(x):
    return Cube.apply(x) ** 2


print(f"x^3: {by_grad(Cube.apply):g} by grad, {by_backward(Cube.apply):g} by backward, right 36")
print(f"(x^3)^2: {by_grad(behind_a_square):g} by grad, right 1152")
assert by_grad(Cube.apply) == by_backward(Cube.apply) == 12.0
assert by_grad(behind_a_square) == 192.0
try:
    by_backward(behind_a_square)
except RuntimeError as error:
    print(f"(x^3)^2 by backward: {error}")
    assert "once_differentiable" in str(error)
else:
    raise AssertionError("backward does not raise")
PYTHON
"$folder/env/bin/python" "$folder/once.py"
