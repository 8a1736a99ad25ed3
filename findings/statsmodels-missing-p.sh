#!/usr/bin/env bash
# One NaN among p values makes statsmodels' corrected ones all NaN while some are still rejected; by Hommel none is.
#
# Version: statsmodels 0.15.0 with scipy 1.17.1 and numpy 2.4.6.
# Guess: a test that could not be made stays NaN, or is refused, as scipy's false_discovery_control does it; the others
#   are corrected for their own number; what is rejected is what has a corrected p below alpha.
# Behaviour: by method. Bonferroni and Holm count the NaN as a test, so that the others' p are larger.
#   Simes-Hochberg and Benjamini-Hochberg give NaN for all, and still reject. Hommel rejects nothing.
# Output seen: p 0.001, 0.01, NaN, 0.04, 0.2: first corrected by Holm 0.005, without the NaN 0.004; by the other three
#   NaN five times; rejected by them 2, 2 and 0, without the NaN 2, 2 and 2.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6
cat > "$folder/missing.py" <<'PYTHON'
import math

from statsmodels.stats.multitest import multipletests

given = [0.001, 0.01, math.nan, 0.04, 0.2]
made = [p for p in given if not math.isnan(p)]
rejected = {}
for method in ("holm", "simes-hochberg", "fdr_bh", "hommel"):
    (all_out, all_p), (made_out, made_p) = (multipletests(values, method=method)[:2] for values in (given, made))
    print(f"{method}: {all_p.tolist()} {all_out.tolist()}; without the NaN {made_p.tolist()} {made_out.tolist()}")
    rejected[method] = int(all_out.sum()), int(made_out.sum())
    if method == "holm":
        assert abs(all_p[0] - 0.005) < 1e-12 and abs(made_p[0] - 0.004) < 1e-12
    else:
        assert all(math.isnan(p) for p in all_p) and not any(math.isnan(p) for p in made_p)
assert rejected == {"holm": (2, 2), "simes-hochberg": (2, 2), "fdr_bh": (2, 2), "hommel": (0, 2)}
PYTHON
"$folder/env/bin/python" "$folder/missing.py"
