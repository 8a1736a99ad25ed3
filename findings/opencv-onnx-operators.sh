#!/usr/bin/env bash
# OpenCV reads valid ONNX networks and answers otherwise than a runtime: an old softmax, padding before, means at the end.
#
# Version: opencv-python-headless 5.0.0.93 with onnx 1.23.2, onnxruntime 1.32.0 and numpy 2.4.6.
# Guess: what cv2.dnn cannot do is refused; what it reads answers as ONNX Runtime does, by the operator set of the file.
# Behaviour: a softmax of operator set 11 goes over all axes from its own on; OpenCV takes that axis alone, as set 13 has
#   it. SAME_LOWER, which pads before, pads behind if the stride is 1. An average with count_include_pad divides the last,
#   incomplete window of ceil_mode by the whole window. SAME paddings of a transposed convolution give other shapes.
# Output seen: largest difference or both shapes: softmax along the channels of 2x3x7x6 images 0.84 with set 11 and 0 with
#   13; convolution with SAME_LOWER 25, SAME_UPPER 0; means of 0 to 6 in threes 1, 4, 6 and 1, 4, 2; transposed
#   convolution (1, 1, 8, 8) and (1, 1, 7, 7).
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/read.py" <<'PYTHON'
import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def answers(kind, numbers, weight=None, *, operators=13, **settings):
    """What ONNX Runtime and OpenCV make of one operator."""
    further = {} if weight is None else {"w": weight}
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *further], ["y"], **settings)],
        "one operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(numbers.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(numbers.ndim)])],
        [numpy_helper.from_array(value, name) for name, value in further.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", operators)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    held = model.SerializeToString()
    session = onnxruntime.InferenceSession(held, providers=["CPUExecutionProvider"])
    network = cv2.dnn.readNetFromONNX(np.frombuffer(held, np.uint8))
    network.setInput(numbers, "x")
    return session.run(None, {"x": numbers})[0], network.forward()


def difference(*given, **settings):
    first, second = answers(*given, **settings)
    return round(float(abs(first - second).max()), 2) if first.shape == second.shape else (first.shape, second.shape)


rng = np.random.default_rng(0)
images = rng.standard_normal((2, 3, 7, 6)).astype(np.float32)
filters = rng.standard_normal((4, 3, 3, 2)).astype(np.float32)
softmax = {operators: difference("Softmax", images, operators=operators, axis=1) for operators in (11, 13)}
padded = {same: difference("Conv", images, filters, auto_pad=same) for same in ("SAME_UPPER", "SAME_LOWER")}
row = np.arange(7, dtype=np.float32).reshape(1, 1, 7, 1)
pooled = [
    found.ravel().tolist()
    for found in answers("AveragePool", row, kernel_shape=[3, 1], strides=[3, 1], ceil_mode=1, count_include_pad=1)
]
ones = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 4, 4), np.float32)
transposed = difference("ConvTranspose", ones[1], ones[0], auto_pad="SAME_UPPER", strides=[2, 2])
print(f"softmax by operator set {softmax}; convolutions {padded}; means {pooled}; transposed {transposed}")
assert softmax[13] == 0 and softmax[11] > 0.5
assert padded["SAME_UPPER"] == 0 and padded["SAME_LOWER"] > 5
assert pooled == [[1.0, 4.0, 6.0], [1.0, 4.0, 2.0]]
assert transposed == ((1, 1, 8, 8), (1, 1, 7, 7))
PYTHON
"$folder/env/bin/python" "$folder/read.py"
