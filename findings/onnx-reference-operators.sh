#!/usr/bin/env bash
# ONNX's own reference implementation normalises as many channels as a batch has images, and pools wrongly at an end.
#
# Version: onnx 1.23.2 with onnxruntime 1.32.0 and numpy 2.4.6.
# Guess: the reference, which runtimes are tested against, does what the standard says; an image's output does not depend
#   on how many others there are.
# Behaviour: local response normalisation counts channels by the number of images: of an image alone only the first
#   channel is normalised. Average pooling with ceil_mode is wrong everywhere, not only in its last window, where the
#   stride leaves one row over. ONNX Runtime agrees with the definitions of both.
# Output seen: channels of 7 that agree with the definition, in batches of 1, 2 and 7 images: 1, 2 and 7 by the reference,
#   7 each by the runtime. Means of 0 to 6 in threes: 1, 4, 6 by the runtime, 0.5, 3, 5 by the reference.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/reference.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

CHANNELS, SIZE, ALPHA, BETA = 7, 3, 0.5, 0.75


def answers(kind, numbers, **settings):
    """What the reference and the runtime make of the same numbers."""
    graph = helper.make_graph(
        [helper.make_node(kind, ["x"], ["y"], **settings)],
        "one operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(numbers.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(numbers.ndim)])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return ReferenceEvaluator(model).run(None, {"x": numbers})[0], session.run(None, {"x": numbers})[0]


def normalised(images):
    squares = np.pad(images**2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    sums = sum(squares[:, start : start + CHANNELS] for start in range(SIZE))
    return images / (1 + ALPHA / SIZE * sums) ** BETA


def agreeing(found, expected):
    return int((abs(found - expected).max(axis=(0, 2, 3)) < 1e-5).sum())


rng = np.random.default_rng(0)
for number, right in ((1, (1, 7)), (2, (2, 7)), (7, (7, 7))):
    images = rng.standard_normal((number, CHANNELS, 3, 3)).astype(np.float32)
    found = answers("LRN", images, size=SIZE, alpha=ALPHA, beta=BETA, bias=1.0)
    channels = tuple(agreeing(each, normalised(images)) for each in found)
    print(f"{number} images: channels normalised by the reference {channels[0]}, by the runtime {channels[1]}")
    assert channels == right
row = np.arange(7, dtype=np.float32).reshape(1, 1, 7)
reference, runtime = answers("AveragePool", row, kernel_shape=[3], strides=[3], ceil_mode=1)
print(f"means of threes: by the reference {reference.ravel().tolist()}, by the runtime {runtime.ravel().tolist()}")
assert runtime.ravel().tolist() == [1.0, 4.0, 6.0]
assert reference.ravel().tolist() == [0.5, 3.0, 5.0]
PYTHON
"$folder/env/bin/python" "$folder/reference.py"
