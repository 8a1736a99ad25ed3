#!/usr/bin/env bash
# captum's integrated gradients by the trapezoid rule are one n-th too small, for a linear network too.
#
# Version: captum 0.9.0 with torch 2.14.1.
# Guess: every rule of integration is exact for a constant gradient, and the trapezoid rule for one that grows linearly,
#   so maps of a linear and of a quadratic network sum to the change of the output, with 5 steps as with 50.
# Behaviour: for `riemann_trapezoid` the weights of the n points sum to (n - 1) / n: n points are n - 1 intervals, and each
#   counts for 1 / n. The other four rules' weights sum to 1. Maps by different rules or numbers of steps are not of
#   one scale, and the completeness error of the rule is 1 / n of the output's change.
# Output seen: sum of the map over the output's change for a linear network with 5, 20 and 50 steps: 0.80, 0.95, 0.98;
#   for a quadratic one the same, where it is exact otherwise; by the other rules 1.00 for the linear network.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 captum==0.9.0
cat > "$folder/trapezoid.py" <<'PYTHON'
import torch
from captum.attr import IntegratedGradients

torch.manual_seed(0)
images = torch.rand(3, 12, dtype=torch.float64)
weights = torch.rand(12, 1, dtype=torch.float64)


def linear(points):
    return points @ weights


def quadratic(points):
    return points**2 @ weights


def share(network, method, steps):
    """Sum of the map over the change of the output, which completeness has at 1."""
    maps = IntegratedGradients(network).attribute(images, target=0, n_steps=steps, method=method)
    shares = maps.sum(dim=1) / network(images)[:, 0]
    assert shares.max() - shares.min() < 1e-6
    return round(float(shares[0]), 3)


rules = ("riemann_left", "riemann_right", "riemann_middle", "gausslegendre")
trapezoid = {
    network.__name__: [share(network, "riemann_trapezoid", steps) for steps in (5, 20, 50)]
    for network in (linear, quadratic)
}
others = [share(linear, rule, 5) for rule in rules]
print(f"sum over change, trapezoid with 5, 20 and 50 steps: {trapezoid}; other rules, 5 steps: {others}")
assert trapezoid == {"linear": [0.8, 0.95, 0.98], "quadratic": [0.8, 0.95, 0.98]}
assert others == [1.0] * 4
PYTHON
"$folder/env/bin/python" "$folder/trapezoid.py"
