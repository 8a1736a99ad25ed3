#!/usr/bin/env bash
# torchmetrics' relative average spectral error is too large by as many times as its window has pixels.
#
# Version: torchmetrics 1.9.0 with torch 2.13.0.
# Guess: 100 over the picture's mean, times the root of the mean squared error over channels (Gonzalez-Audicana et al.,
#   2004), within each window and in the mean over them. An even error on an even picture has no use for windows: 0.1 on
#   0.5 is 20 %, whatever their size.
# Behaviour: the mean over a window, which a filter has divided by the window's pixels already, is divided by them once
#   more; the error above it is not. Values of two window sizes cannot be compared, and none is a percentage. The sliding
#   root mean squared error, which it is made from, is right.
# Output seen: 0.1 on 0.5 with windows of 2, 4, 8 and 16 pixels a side: 80, 320, 1280 and 5120, which are 20 times 4, 16,
#   64 and 256; sliding error 0.1 each time. Random pictures with the default window 63.9 times as much as written out.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cat > "$folder/spectral.py" <<'PYTHON'
import torch
from torchmetrics.functional.image import (
    relative_average_spectral_error,
    root_mean_squared_error_using_sliding_window,
)

SIDE, WINDOW = 40, 8
torch.manual_seed(0)
torch.set_num_threads(1)
even = torch.full((1, 3, SIDE, SIDE), 0.5)
found = {}
for window in (2, 4, 8, 16):
    found[window] = float(relative_average_spectral_error(even + 0.1, even, window_size=window))
    sliding = float(root_mean_squared_error_using_sliding_window(even + 0.1, even, window_size=window))
    print(f"window {window}: {found[window]:.1f}, sliding error {sliding:.3f}")
    assert abs(sliding - 0.1) < 1e-5
    assert abs(found[window] / (20 * window**2) - 1) < 1e-4


def averaged(pictures):
    """The mean of each window that lies whole in the picture."""
    return torch.nn.functional.avg_pool2d(pictures, WINDOW, stride=1)


pictures = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64)
noisy = pictures + 0.1 * torch.randn_like(pictures)
errors = averaged((pictures - noisy) ** 2).mean(dim=1).sqrt()
written_out = float((100 * errors / averaged(pictures).mean(dim=1)).mean())
times = float(relative_average_spectral_error(noisy, pictures)) / written_out
print(f"random pictures: {times:.1f} times {written_out:.1f}")
assert abs(times / WINDOW**2 - 1) < 0.02
PYTHON
"$folder/env/bin/python" "$folder/spectral.py"
