#!/usr/bin/env bash
# Quantiles of distances are NaN in numpy and pandas where two images of the sample were not broken; medians are not.
#
# Version: numpy 2.4.6 and pandas 3.1.1.
# Guess: the distance of an image that no attack broke is inf, so the quantile in the middle of seven distances of
#   which four are inf is inf, as the median is.
# Behaviour: quantiles are interpolated between neighbours even where they fall on one, and inf - inf is NaN. So
#   `quantile(0.5)` is NaN where `median()` is inf, and `describe()` shows NaN for the 50 % row. Methods that do not
#   interpolate ("lower", "higher", "nearest") give inf.
# Output seen: as above, for the quantiles 0.5 and 0.75, with numpy and pandas alike.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 pandas==3.1.1
cat > "$folder/unbroken.py" <<'PYTHON'
import math

import numpy as np
import pandas as pd

distances = [0.1, 0.2, 0.3, math.inf, math.inf, math.inf, math.inf]
series = pd.Series(distances)
with np.errstate(invalid="ignore"):
    found = {
        "numpy": [float(np.quantile(distances, share)) for share in (0.5, 0.75)],
        "pandas": [float(series.quantile(share)) for share in (0.5, 0.75)],
        "described": [float(series.describe()[row]) for row in ("50%", "75%")],
    }
medians = float(np.median(distances)), float(series.median())
nearest = float(np.quantile(distances, 0.5, method="nearest"))
print(f"quantiles 0.5 and 0.75: {found}; medians {medians}; the nearest one {nearest}")
assert all(math.isnan(value) for quantiles in found.values() for value in quantiles)
assert medians == (math.inf, math.inf)
assert nearest == math.inf
PYTHON
"$folder/env/bin/python" "$folder/unbroken.py"
