#!/usr/bin/env bash
# torchcp's worst-slice coverage looks for the slice with the smallest labels, not for the one that is covered worst.
#
# Version: torchcp 1.2.1 (its metrics alone) with torch 2.14.1, scikit-learn 1.9.1 and numpy 2.4.6.
# Guess: where prediction sets fail for all images of one half-space, worst-slice coverage (Romano et al., 2020;
#   slices of at least a tenth of the images) is near 0, and far below the coverage of all images.
# Behaviour: labels and coverage change places on their way into the search. It finds the slice whose class numbers
#   are smallest in the mean, and the coverage of that one is given; where labels have nothing to do with coverage, it
#   is that of all images, and renaming the classes changes it. Beside it, macro coverage counts classes that do not
#   occur as not covered at all.
# Output seen: 4,000 images, every set wrong where the first feature is above 1 (a sixth): coverage of all 0.84 to
#   0.85, of that half-space 0, worst-slice coverage 0.85, 0.84 and 0.84 in three draws. Macro coverage of sets that
#   hold everything, two of four classes in the sample: 0.5.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1 tqdm==4.70.1
"$folder/env/bin/pip" install --quiet --no-deps torchcp==1.2.1
cat > "$folder/slice.py" <<'PYTHON'
import importlib.util
import sys
import types
from pathlib import Path

import torch

# The package as a whole imports graph and language libraries, one of which has to be compiled.
root = Path(importlib.util.find_spec("torchcp").origin).parent
for name in ("torchcp", "torchcp.classification", "torchcp.classification.utils"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
from torchcp.classification.utils.metrics import WSC, coverage_rate  # noqa: E402

IMAGES, CLASSES = 4000, 4
for draw in range(3):
    generator = torch.Generator().manual_seed(draw)
    features = torch.randn(IMAGES, 2, generator=generator)
    labels = torch.randint(0, CLASSES, (IMAGES,), generator=generator)
    sets, failing = torch.ones(IMAGES, CLASSES), features[:, 0] > 1
    sets[failing, labels[failing]] = 0
    overall, half_space = coverage_rate(sets, labels), coverage_rate(sets[failing], labels[failing])
    worst = WSC(features, sets, labels, delta=0.1)
    share = float(failing.double().mean())
    print(f"coverage {overall:.2f}, where it fails ({share:.2f} of images) {half_space:.2f}, worst slice {worst:.2f}")
    assert half_space == 0 and share > 0.1 and abs(worst - overall) < 0.05

absent = coverage_rate(torch.ones(10, CLASSES), torch.arange(10) % 2, "macro", CLASSES)
print(f"macro coverage of full sets, two of four classes in the sample: {absent}")
assert absent == 0.5
PYTHON
"$folder/env/bin/python" "$folder/slice.py"
