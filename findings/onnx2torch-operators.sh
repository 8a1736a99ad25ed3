#!/usr/bin/env bash
# onnx2torch converts valid networks to others without an error; a network from a file has to be held against a runtime.
#
# Version: onnx2torch 1.5.15 with onnx 1.23.2, onnxruntime 1.32.0 and torch 2.14.1.
# Guess: what the converter has no layer for is refused; what it converts answers as ONNX Runtime does.
# Behaviour: a running sum that names no direction runs backwards; a padding of older operator sets with a value pads
#   with zeros; the largest over the axes 1 and -1 is that over the first axis and the last; a demanded output shape of a
#   transposed convolution is not looked at. Only for linear resizing by the convention asymmetric, which differs, too,
#   there is a warning.
# Output seen: largest difference from ONNX Runtime, or both shapes: CumSum of 0 to 11 66, Pad 0.5, ReduceMax of (2, 3, 4)
#   3 numbers against 2, ConvTranspose (1, 3, 11, 9) against (1, 3, 12, 10), Resize 1; a convolution, as a control, 0.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet onnx2torch==1.5.15 onnx==1.23.2 onnxruntime==1.32.0 torch==2.14.1 \
    torchvision==0.29.1 numpy==2.4.6
cat > "$folder/operators.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx2torch import convert


def compared(kind, operators, shape, further=None, *, rank=None, **settings):
    """The largest difference between both answers to 0, 1, 2, ..., or their shapes where these differ."""
    further = further or {}
    numbers = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *further], ["y"], **settings)],
        "one operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(rank or len(shape))])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in further.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", operators)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": numbers})
    with torch.no_grad():
        found = convert(model).eval()(torch.from_numpy(numbers)).numpy()
    if found.shape != expected.shape:
        return found.shape, expected.shape
    return round(float(abs(found - expected).max()), 4)


filters = np.ones((2, 3, 3, 3), np.float32)
twice = {"roi": np.array([], np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
found = {
    "Conv": compared("Conv", 13, (1, 2, 6, 5), {"w": np.ones((3, 2, 3, 3), np.float32)}),
    "CumSum": compared("CumSum", 14, (12,), {"axis": np.array(0)}),
    "Pad": compared("Pad", 9, (1, 2, 3, 3), pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5),
    "ReduceMax": compared("ReduceMax", 13, (2, 3, 4), rank=1, axes=[1, -1], keepdims=0),
    "ConvTranspose": compared(
        "ConvTranspose", 13, (1, 2, 5, 4), {"w": filters}, strides=[2, 2], output_shape=[12, 10]
    ),
    "Resize": compared(
        "Resize", 13, (1, 1, 3, 3), twice, mode="linear", coordinate_transformation_mode="asymmetric"
    ),
}
print(found)
assert found == {
    "Conv": 0.0,
    "CumSum": 66.0,
    "Pad": 0.5,
    "ReduceMax": ((3,), (2,)),
    "ConvTranspose": ((1, 3, 11, 9), (1, 3, 12, 10)),
    "Resize": 1.0,
}
PYTHON
"$folder/env/bin/python" "$folder/operators.py"
