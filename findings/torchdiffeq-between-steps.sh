#!/usr/bin/env bash
# torchdiffeq's rk4 is first-rate at the ends of its steps and draws straight lines between them.
#
# Version: torchdiffeq 0.2.5 with torch 2.14.1.
# Guess: a time that falls between two steps is as accurate as the method, by a shorter step or an interpolation of its
#   order, as dopri5's is; a trajectory may be asked for at any times.
# Behaviour: with `step_size`, values at other times than the steps' lie on the straight line between two steps, for all
#   fixed methods; halving the step makes them four times better and not sixteen. Asked for the steps' own times, they are
#   right. An option, `interp` "cubic", does what one expects. So does the solver when the step is left out.
# Output seen: y' = -y cos(t), step 0.1, error at the end, t = 1, 8e-8; at t = 0.05 1.2e-3, and with "cubic" 7e-7; with
#   half the step, which ends there, 1e-9, and at t = 0.025 3e-4.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 torchdiffeq==0.2.5 numpy==2.4.6 scipy==1.17.1
cat > "$folder/between.py" <<'PYTHON'
import math

import torch
from torchdiffeq import odeint


def errors(step, time, **further):
    """What is off at this time and at 1, where the solution is exp(-sin t)."""
    times = torch.tensor([0, time, 1], dtype=torch.float64)
    start = torch.ones(1, dtype=torch.float64)
    options = {"step_size": step, **further} if step else None
    found = odeint(lambda t, y: -y * torch.cos(t), start, times, method="rk4", options=options)[1:, 0]
    return [abs(float(value) - math.exp(-math.sin(when))) for value, when in zip(found, (time, 1), strict=True)]


coarse, fine, on_step = errors(0.1, 0.05), errors(0.05, 0.025), errors(0.05, 0.05)
cubic, free = errors(0.1, 0.05, interp="cubic"), errors(None, 0.05)
print(f"errors between steps of 0.1 and at the end {coarse}, of 0.05 {fine}; on a step {on_step[0]}; cubic {cubic[0]}")
assert 1e-3 < coarse[0] < 2e-3 and 3 < coarse[0] / fine[0] < 5
assert coarse[1] < 1e-6 and on_step[0] < 1e-7 and cubic[0] < 1e-6 and free[0] < 1e-7
PYTHON
"$folder/env/bin/python" "$folder/between.py"
