#!/usr/bin/env bash
# MAPIE's Spiegelhalter test of calibration looks one way: a network that is not confident enough has a p value of 1.
#
# Version: MAPIE 1.6.0 with numpy 2.4.6, scipy 1.17.1 and scikit-learn 1.9.1.
# Guess: the null hypothesis of calibration is rejected where the statistic is far from 0 on either side (Spiegelhalter,
#   1986), as Kolmogorov-Smirnov's and Kuiper's are; confidences that are too small have as small a p value as ones that
#   are too large.
# Behaviour: the p value is that of the upper side alone. Confidences above one half that are too small make the statistic
#   negative, and the p value nearer to 1 the worse they are. Beside it, the top-label calibration error (Gupta and
#   Ramdas, 2022) is a mean over classes where it should be one over images: a rare class counts as much as all others.
# Output seen: 400 draws of 500 images, rejected at 5 %, by Spiegelhalter, Kolmogorov-Smirnov and Kuiper: calibrated 0.06,
#   0.06, 0.05; overconfident 1.00, 0.99, 1.00; underconfident 0.00, 1.00, 1.00, mean p 1.0000; on both sides 1.00. Error
#   of 0.01 for nine images of ten and 0.4 for the tenth 0.205, where the definition gives 0.049.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet mapie==1.6.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
cat > "$folder/oneside.py" <<'PYTHON'
import numpy as np
from mapie.metrics.calibration import (
    kolmogorov_smirnov_p_value,
    kuiper_p_value,
    spiegelhalter_p_value,
    top_label_ece,
)

DRAWS, IMAGES = 400, 500
rng = np.random.default_rng(0)
tests = (spiegelhalter_p_value, kolmogorov_smirnov_p_value, kuiper_p_value)


def p_values(power):
    """Odds of being right are the stated ones to the power given: 1 is calibrated, 2 is better than it says."""
    found = []
    for _ in range(DRAWS):
        stated = rng.uniform(0.5, 1, IMAGES)
        true = stated**power / (stated**power + (1 - stated) ** power)
        right = (rng.random(IMAGES) < true).astype(int)
        found.append([test(right, stated) for test in tests])
    return np.array(found)


rejected = {}
for name, power in (("calibrated", 1), ("overconfident", 0.5), ("underconfident", 2)):
    found = p_values(power)
    two_sided = 2 * np.minimum(found[:, 0], 1 - found[:, 0])
    rejected[name] = (found < 0.05).mean(axis=0)
    print(f"{name}: rejected {rejected[name].round(2)}, mean p of Spiegelhalter {found[:, 0].mean():.4f}")
assert (rejected["calibrated"] < 0.1).all() and (rejected["overconfident"] > 0.9).all()
assert rejected["underconfident"][0] == 0 and (rejected["underconfident"][1:] > 0.9).all()
assert found[:, 0].min() > 0.9
print(f"on both sides: rejected {(two_sided < 0.05).mean():.2f}")
assert (two_sided < 0.05).mean() > 0.9

labels = np.repeat([0, 1], (900, 100))
stated = np.repeat([0.99, 0.6], (900, 100))
error = top_label_ece(labels, stated, labels, num_bins=10)
print(f"top-label error {error:.3f}, by its definition {np.abs(1 - stated).mean():.3f}")
assert abs(error - 0.205) < 1e-6 and abs(np.abs(1 - stated).mean() - 0.049) < 1e-6
PYTHON
"$folder/env/bin/python" "$folder/oneside.py"
