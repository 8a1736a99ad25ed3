#!/usr/bin/env bash
# torchcp's CQR-R calibrates and then leaves the intervals as they were, so that 90 % can be 38 % or 100 %.
#
# Version: torchcp 1.2.1 (its scores alone) with torch 2.13.0 and numpy 2.4.6.
# Guess: intervals of quantile regression are widened at both ends by the calibrated quantile times their own width
#   (Sesia and Candes, 2020), so that 90 % of new values are covered, however wrong the quantiles were.
# Behaviour: the width is taken from the array that is to be filled, which still holds zeros. The calibrated quantile is
#   multiplied by 1e-6 instead, intervals stay the network's own to six digits, and their coverage is whatever that
#   has. CQR and CQR-M beside it cover what was asked for.
# Output seen: 20,000 values to calibrate, 20,000 new ones, coverage asked for 0.9, of quantiles too near, and too far, by
#   CQR 0.90 and 0.90, by CQR-M 0.90 and 0.90, by CQR-R 0.38 and 1.00, written out 0.90 and 0.90.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1 tqdm==4.70.1
"$folder/env/bin/pip" install --quiet --no-deps torchcp==1.2.1
cat > "$folder/intervals.py" <<'PYTHON'
import importlib.util
import sys
import types

import torch
from torch.utils.data import DataLoader, TensorDataset

# The package as a whole imports graph and language libraries, one of which has to be compiled.
paths = importlib.util.find_spec("torchcp").submodule_search_locations
sys.modules["torchcp"] = types.ModuleType("torchcp")
sys.modules["torchcp"].__path__ = paths
from torchcp.regression.predictor import SplitPredictor  # noqa: E402
from torchcp.regression.score import CQR, CQRM, CQRR  # noqa: E402

VALUES, ALPHA = 20000, 0.1
torch.manual_seed(0)
torch.set_num_threads(1)


class Quantiles(torch.nn.Module):
    """Lower and upper quantiles, with the median between them where the score wants it."""

    def __init__(self, width, median):
        super().__init__()
        self.width, self.median = torch.nn.Parameter(torch.tensor(width)), median

    def forward(self, points):
        half = self.width * points[:, 0]
        return torch.stack([-half, 0 * half, half] if self.median else [-half, half], dim=1)


def draw():
    spread = 0.5 + 2 * torch.rand(VALUES)
    return spread[:, None], spread * torch.randn(VALUES)


def loader(points, values):
    return DataLoader(TensorDataset(points, values), batch_size=500)


def written_out(known, new, width):
    """Score, its quantile and the intervals of CQR-R, where lower and upper quantile are half widths around 0."""
    half = width * known[0][:, 0]
    scores = ((known[1].abs() - half) / (2 * half)).sort().values
    quantile = scores[int((VALUES + 1) * (1 - ALPHA) + 0.999) - 1]
    half = width * new[0][:, 0]
    return float((new[1].abs() <= half + quantile * 2 * half).float().mean())


covered = {}
known, new = draw(), draw()
for width in (0.5, 3.0):
    for score in (CQR, CQRM, CQRR):
        predictor = SplitPredictor(score(), Quantiles(width, score is CQRM), alpha=ALPHA)
        predictor.calibrate(loader(*known), ALPHA)
        covered[width, score.__name__] = predictor.evaluate(loader(*new))["coverage_rate"]
    covered[width, "written out"] = written_out(known, new, width)
print({name: round(value, 2) for name, value in covered.items()})
for (width, name), value in covered.items():
    if name == "CQRR":
        assert value < 0.5 if width < 1 else value > 0.99
    else:
        assert abs(value - 0.9) < 0.015
PYTHON
"$folder/env/bin/python" "$folder/intervals.py"
