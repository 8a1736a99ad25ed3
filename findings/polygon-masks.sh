#!/usr/bin/env bash
# The polygon of one object has 100, 110 or 121 pixels, depending on which library draws its mask.
#
# Version: pycocotools 2.0.11, pillow 12.3.0, opencv-python-headless 5.0.0.93, scikit-image 0.26.0, matplotlib 3.11.2.
# Guess: a polygon with the corners (5, 5), (15, 5), (15, 15), (5, 15) is a square of 10 by 10: a mask of 100 pixels,
#   whoever fills it; a share of a map's energy that lies inside does not depend on the library.
# Behaviour: only COCO's own tool gives the polygon's area. Pillow, OpenCV and scikit-image count corners as centres of
#   pixels and fill both ends: 121. matplotlib's test of points leaves out one of two opposite sides: 110; with a radius
#   of 0.1, which is to move the border outwards, 121 or 81, by the direction in which the corners are listed. The floor
#   of an energy pointing game, an object's share of the image, differs by a fifth with them.
# Output seen: pycocotools 100, Pillow 121, OpenCV 121, scikit-image 121, matplotlib 110; with the radius 121 for the
#   corners as above, 81 for the same ones backwards.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pycocotools==2.0.11 pillow==12.3.0 opencv-python-headless==5.0.0.93 \
    scikit-image==0.26.0 matplotlib==3.11.2 numpy==2.4.6
cat > "$folder/polygon.py" <<'PYTHON'
import cv2
import numpy as np
import pycocotools.mask
from matplotlib.path import Path
from PIL import Image, ImageDraw
from skimage.draw import polygon2mask

SIDE = 40
corners = [(5, 5), (15, 5), (15, 15), (5, 15)]
rows, columns = np.mgrid[:SIDE, :SIDE]
points = np.c_[columns.ravel(), rows.ravel()]

picture = Image.new("L", (SIDE, SIDE))
ImageDraw.Draw(picture).polygon(corners, fill=1)
filled = np.zeros((SIDE, SIDE), np.uint8)
cv2.fillPoly(filled, [np.array(corners)], 1)
outline = [coordinate for corner in corners for coordinate in corner]
masks = {
    "pycocotools": pycocotools.mask.decode(pycocotools.mask.frPyObjects([outline], SIDE, SIDE)),
    "Pillow": np.array(picture),
    "OpenCV": filled,
    "scikit-image": polygon2mask((SIDE, SIDE), corners),
    "matplotlib": Path(corners).contains_points(points),
}
areas = {name: int(mask.sum()) for name, mask in masks.items()}
widened = [int(Path(path).contains_points(points, radius=0.1).sum()) for path in (corners, corners[::-1])]
print(areas, widened)
assert areas == {"pycocotools": 100, "Pillow": 121, "OpenCV": 121, "scikit-image": 121, "matplotlib": 110}
assert widened == [121, 81]
PYTHON
"$folder/env/bin/python" "$folder/polygon.py"
