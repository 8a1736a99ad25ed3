#!/usr/bin/env bash
# Quantus ranks equal attributions by their place in the picture, so that sparse maps score by where the object lies.
#
# Version: quantus 0.6.0 with numpy 2.4.6, scikit-image 0.26.0, opencv-python 5.0.0.93 and no network library.
# Guess: a map with all its mass on one pixel of the object, 0 elsewhere, has one score wherever the object lies; ties
#   among the zeros are broken at random or share their ranks. A map that is 0 everywhere points at nothing: no hit.
# Behaviour: RelevanceRankAccuracy and TopKIntersection sort all pixels and take the first k, ties in the order of
#   memory; what the maps say does not differ, and the score does, eightfold. PointingGame counts a map of zeros as a
#   hit (every pixel is a maximum), unless all maps of its batch are 0, which is an error. AUC shares ranks, as it should.
# Output seen: object above 0.500, below 0.0625, for RelevanceRankAccuracy and TopKIntersection (k=16) alike; AUC 0.531
#   for both; PointingGame of the map of zeros 1.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet quantus==0.6.0 \
    numpy==2.4.6 scikit-image==0.26.0 scikit-learn==1.9.1 scipy==1.17.1 pandas==3.1.1 opencv-python==5.0.0.93
cat > "$folder/ties.py" <<'PYTHON'
import numpy as np
import quantus

SIDE, OBJECT = 8, 4
corners = [(0, 0), (SIDE - OBJECT, 0)]
masks, maps = np.zeros((2, 1, SIDE, SIDE), dtype=bool), np.zeros((2, 1, SIDE, SIDE))
for index, (top, left) in enumerate(corners):
    masks[index, 0, top : top + OBJECT, left : left + OBJECT] = True
    maps[index, 0, top + 1, left + 1] = 1.0


def score(metric, attributions):
    given = {"x_batch": maps.astype(np.float32), "y_batch": np.zeros(2, dtype=int), "s_batch": masks}
    found = metric(model=None, a_batch=attributions.copy(), channel_first=True, device=None, **given)
    return [float(value) for value in found]


quiet = {"disable_warnings": True}
ranks = score(quantus.RelevanceRankAccuracy(**quiet), maps)
top = score(quantus.TopKIntersection(k=OBJECT**2, **quiet), maps)
area = score(quantus.AUC(**quiet), maps)
blank = maps.copy()
blank[1] = 0
hits = score(quantus.PointingGame(**quiet), blank)
print(f"object above and below: rank accuracy {ranks}, top k {top}, AUC {area}; blank map, pointing game {hits[1]}")
assert ranks == top == [0.5, 0.0625]
assert abs(area[0] - 0.53125) < 1e-9 and area[0] == area[1]
assert hits == [1.0, 1.0]
PYTHON
"$folder/env/bin/python" "$folder/ties.py"
