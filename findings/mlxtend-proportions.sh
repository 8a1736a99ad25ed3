#!/usr/bin/env bash
# mlxtend's test of two accuracies gives p near 1 for a clear difference, and its McNemar test p = 0 for equal networks.
#
# Version: mlxtend 0.25.0 with scipy 1.17.1, numpy 2.4.6, scikit-learn 1.9.1, pandas 3.1.1 and matplotlib 3.11.2.
# Guess: "the z-score and the p-value" of a difference of proportions: p is near 0 for 90 % against 50 %, 1 for equal
#   ones, and the same whichever comes first. Two networks with the same answers to every image do not differ: p = 1.
# Behaviour: p is the normal distribution's value at z: of a one-sided test that the first accuracy is the smaller
#   one, which its documentation string does not say. Put the better network first, and the clearer the difference,
#   the nearer p is to 1. Edwards' correction takes 1 from a difference of 0 too: without disagreements McNemar's
#   statistic is 1 / 0 (numpy warns), and p 0; with one each way, 0.5. With `exact=True` p is 1 for both.
# Output seen: 0.9 and 0.5 of 100: p 1.0000, the other way round 0.0000, two-sided written out 7e-12; equal ones 0.5.
#   McNemar, by disagreements 0 and 0, 1 and 1, 5 and 5: p 0.00, 0.48, 0.75; exact 1 for all.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet mlxtend==0.25.0 \
    numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 pandas==3.1.1 matplotlib==3.11.2 joblib==1.6.0
cat > "$folder/proportions.py" <<'PYTHON'
import warnings

import numpy as np
from mlxtend.evaluate import mcnemar, mcnemar_table, proportion_difference
from scipy.stats import norm

warnings.simplefilter("ignore")
IMAGES = 100
z, clear = (float(value) for value in proportion_difference(0.9, 0.5, IMAGES))
turned, equal = (float(proportion_difference(*pair, IMAGES)[1]) for pair in ((0.5, 0.9), (0.7, 0.7)))
two_sided = float(2 * norm.sf(z))
print(f"0.9 and 0.5: p {clear:.4f}, turned round {turned:.4f}, two-sided {two_sided:.0e}; equal ones {equal:.2f}")
assert clear > 0.9999 and turned < 1e-4 and two_sided < 1e-9 and equal == 0.5

seen = {}
for disagreements in (0, 1, 5):
    labels, first = np.zeros(IMAGES, dtype=int), np.zeros(IMAGES, dtype=int)
    second = first.copy()
    first[:disagreements] = 1
    second[disagreements : 2 * disagreements] = 1
    table = mcnemar_table(labels, first, second)
    seen[disagreements] = round(float(mcnemar(table)[1]), 2), float(mcnemar(table, exact=True)[1])
print(f"McNemar's p and the exact one, by disagreements each way: {seen}")
assert seen == {0: (0.0, 1.0), 1: (0.48, 1.0), 5: (0.75, 1.0)}
PYTHON
"$folder/env/bin/python" "$folder/proportions.py"
