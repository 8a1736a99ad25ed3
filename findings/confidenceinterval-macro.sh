#!/usr/bin/env bash
# confidenceinterval's default intervals of macro F1 are twice too wide for two classes and too narrow for ten.
#
# Version: confidenceinterval 1.0.5 with numpy 2.4.6, scipy 1.17.1, scikit-learn 1.9.1, statsmodels 0.15.0, pandas
#   3.1.1.
# Guess: half of a 95 % interval is 1.96 standard deviations of the score over samples, by the delta method (Takahashi
#   et al., 2022, Appl. Intell. 52), and about 95 of 100 intervals hold the true score.
# Behaviour: for macro F1 factors of the variance's formula are added in two places where they multiply. For macro
#   precision and recall, and the F1 of two classes, each share is multiplied by itself where the shares of all pairs
#   of classes belong. Intervals are too wide or too narrow by what the confusion looks like.
# Output seen: 500 images; deviation by the package over that by the delta method, which agrees with 300 samples, and
#   the part of the intervals that hold the truth: macro F1 of 2, 4 and 10 classes 1.88, 1.36, 0.86 and 1.00, 1.00,
#   0.90; macro recall 0.85, 0.96, 0.94 and 0.90, 0.92, 0.92; F1 of two classes 1.15 and 0.97.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet confidenceinterval==1.0.5 \
    numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 statsmodels==0.15.0 pandas==3.1.1
cat > "$folder/macro.py" <<'PYTHON'
import confidenceinterval
import numpy as np

IMAGES, SAMPLES = 500, 300
rng = np.random.default_rng(0)


def scores(table):
    hits, truths, answers = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    return {"f1": 2 * hits / (truths + answers), "precision": hits / answers, "recall": hits / truths}


def deviation(shares, name, average):
    """Standard deviation by the delta method: slopes of the score in the shares of a multinomial distribution."""

    def value(flat):
        found = scores(flat.reshape(shares.shape))[name]
        return found.mean() if average == "macro" else found[1]

    flat, step = shares.ravel(), 1e-6
    steps = step * np.eye(flat.size)
    slopes = np.array([(value(flat + one) - value(flat - one)) / (2 * step) for one in steps])
    return np.sqrt((flat * slopes**2).sum() - (flat @ slopes) ** 2) / np.sqrt(IMAGES), value(flat)


seen = {}
for classes in (2, 4, 10):
    right = np.linspace(0.6, 0.95, classes)
    shares = np.where(np.eye(classes, dtype=bool), right[:, None], ((1 - right) / (classes - 1))[:, None]) / classes
    drawn = rng.choice(shares.size, size=(SAMPLES, IMAGES), p=shares.ravel())
    cases = [("f1", "macro"), ("recall", "macro")] + ([("f1", "binary")] if classes == 2 else [])
    for name, average in cases:
        expected, truth = deviation(shares, name, average)
        function = getattr(confidenceinterval, f"{name}_score")
        values, halves, held = [], [], []
        for sample in drawn:
            value, (low, high) = function(sample // classes, sample % classes, average=average)
            values.append(value)
            halves.append((high - low) / 2 / 1.96)
            held.append(low <= truth <= high)
        seen[average, name, classes] = np.mean(halves) / expected, np.mean(held)
        print(
            f"{average} {name}, {classes} classes: deviation over samples {np.std(values):.4f}, by the delta method "
            f"{expected:.4f}, by the package {np.mean(halves):.4f}, intervals that hold the truth {np.mean(held):.2f}"
        )
        assert abs(np.std(values) / expected - 1) < 0.1
assert seen["macro", "f1", 2][0] > 1.7 and seen["macro", "f1", 4][0] > 1.2 and seen["macro", "f1", 2][1] > 0.99
assert seen["macro", "f1", 10][0] < 0.9 and seen["macro", "f1", 10][1] < 0.93
assert seen["macro", "recall", 2][0] < 0.9 and seen["macro", "recall", 2][1] < 0.93
assert seen["binary", "f1", 2][0] > 1.1
PYTHON
"$folder/env/bin/python" "$folder/macro.py"
