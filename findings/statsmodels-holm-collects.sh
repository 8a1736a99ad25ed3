#!/usr/bin/env bash
# statsmodels' correction by Holm has Python collect all its garbage, once a call.
#
# Version: statsmodels 0.15.0 with numpy 2.4.6, scipy 1.17.1 and pandas 3.0.0.
# Guess: a correction of three p values takes as long as any other of them, some ten microseconds, wherever it is called.
# Behaviour: multipletests(method="holm") ends with a full collection, which goes through every object of the process.
#   So it takes the longer the more a program has loaded and holds, none of which is its business: a tenth of a second
#   where torch is imported, in a loop over tables minutes. Bonferroni, Sidak, Hommel and Benjamini-Hochberg do not.
# Output seen: of 10 calls each: holm 10 full collections, the four others none; with a million small objects alive, a
#   call by holm takes 153 milliseconds and one by bonferroni 0.04, as before.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet statsmodels==0.15.0 numpy==2.4.6 scipy==1.17.1 pandas==3.0.0
cat > "$folder/holm.py" <<'PYTHON'
import gc
import time

from statsmodels.stats.multitest import multipletests

PS = [0.01, 0.04, 0.03]
full = []
gc.callbacks.append(lambda phase, told: full.append(1) if phase == "start" and told["generation"] == 2 else None)


def called(method):
    gc.collect()
    del full[:]
    began = time.perf_counter()
    for _ in range(10):
        multipletests(PS, method=method)
    return len(full), (time.perf_counter() - began) / 10


for method, expected in {"holm": 10, "bonferroni": 0, "sidak": 0, "hommel": 0, "fdr_bh": 0}.items():
    count, seconds = called(method)
    print(f"{method}: {count} full collections in 10 calls, {1e6 * seconds:.0f} microseconds each")
    assert count == expected
alive = [[number] for number in range(1_000_000)]
slow, quick = called("holm")[1], called("bonferroni")[1]
print(f"with {len(alive):,} objects alive: {1e6 * slow:.0f} and {1e6 * quick:.0f} microseconds")
assert slow > 20 * quick
PYTHON
"$folder/env/bin/python" "$folder/holm.py"
