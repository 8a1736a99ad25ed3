#!/usr/bin/env bash
# statsmodels' score interval of a difference of proportions depends on which one comes first, and may not be found.
#
# Version: statsmodels 0.15.0 with scipy 1.17.1 and numpy 2.4.6.
# Guess: the score test of two robust accuracies is Miettinen's and Nurminen's (1985, Stat. Med. 4): p for a difference d
#   of A and B is that for -d of B and A, two equal accuracies have an interval around 0, and any counts have one.
# Behaviour: of the cubic equation that gives the accuracies at a difference, one coefficient has the successes of the
#   second sample where its size belongs. So p is another one for (B, A), the interval of two equal accuracies
#   is not symmetric, and for 15 and 10 of 20 no end is found (ValueError). Newcombe's interval is symmetric.
# Output seen: p of a difference of 0.2 for 18 and 10 of 20: 0.167, in the other order 0.157, by search for the largest
#   likelihood 0.152; interval for 10 and 10 of 20: -0.2980 to 0.2990.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6
cat > "$folder/score.py" <<'PYTHON'
from scipy import optimize, stats
from statsmodels.stats.proportion import confint_proportions_2indep, score_test_proportions_2indep


def searched(count, total, other, other_total, difference):
    """Two-sided p of the score test, its variance from the largest likelihood at this difference."""

    def unlikely(share):
        return -stats.binom.logpmf(count, total, share + difference) - stats.binom.logpmf(other, other_total, share)

    ends = max(0, -difference) + 1e-9, min(1, 1 - difference) - 1e-9
    share = optimize.minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    first = share + difference
    variance = first * (1 - first) / total + share * (1 - share) / other_total
    variance *= (total + other_total) / (total + other_total - 1)
    return 2 * stats.norm.sf(abs(count / total - other / other_total - difference) / variance**0.5)


def ends(method, *counts):
    return [float(end) for end in confint_proportions_2indep(*counts, method=method, compare="diff")]


there = float(score_test_proportions_2indep(18, 20, 10, 20, value=0.2).pvalue)
back = float(score_test_proportions_2indep(10, 20, 18, 20, value=-0.2).pvalue)
exact = float(searched(18, 20, 10, 20, 0.2))
equal, newcombe = ends("score", 10, 20, 10, 20), ends("newcomb", 10, 20, 10, 20)
try:
    found = ends("score", 15, 20, 10, 20)
except ValueError as error:
    found = str(error)
print(f"p {there:.4f}, in the other order {back:.4f}, by search {exact:.4f}; equal ones {equal}, {newcombe}; {found}")
assert abs(there - 0.16679) < 1e-4 and abs(back - 0.15663) < 1e-4 and abs(exact - 0.15198) < 1e-4
assert abs(sum(equal)) > 0.001 and abs(sum(newcombe)) < 1e-12
assert found == "f(a) and f(b) must have different signs"
PYTHON
"$folder/env/bin/python" "$folder/score.py"
