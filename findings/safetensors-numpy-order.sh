#!/usr/bin/env bash
# safetensors.numpy saves a transposed array as it lies in memory, and another one is read, without an error.
#
# Version: safetensors 0.8.0 with numpy 2.4.6.
# Guess: a transposed weight comes back as it was; or saving it is refused, as safetensors.torch refuses what is not
#   contiguous.
# Behaviour: shape and type are those of the array, and the values are those of its memory. A matrix that was
#   transposed on the way, or comes from a solver that works by columns, is another matrix when it is read.
# Output seen: [[0, 3], [1, 4], [2, 5]] is read as [[0, 1], [2, 3], [4, 5]]; [[0, 1, 2], [3, 4, 5]] by columns as
#   [[0, 3, 1], [4, 2, 5]].
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cat > "$folder/transposed.py" <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

kept = np.arange(6.0).reshape(2, 3)
for words, array in (("as made", kept), ("transposed", kept.T), ("by columns", np.asfortranarray(kept))):
    read = load(save({"weight": array}))["weight"]
    print(f"{words}: saved {array.tolist()}, read {read.tolist()}")
    assert read.shape == array.shape and read.dtype == array.dtype
    assert np.array_equal(read, array) == (words == "as made")
PYTHON
"$folder/env/bin/python" "$folder/transposed.py"
