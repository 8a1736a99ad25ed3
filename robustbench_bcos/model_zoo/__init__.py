"""Who is attacked: cards, encodings, B-cos layers, architectures, weights.

Everything between a pixel and a logit lives inside the model. Importing this package does not import torch.
"""

LIBRARIES = ("torchvision", "timm", "robustbench")
"""Before the colon of a model's name; anything else there is a module, or :data:`ONNX`."""

ONNX = "onnx"
"""Before the colon of a model's name: a file follows."""

CLIP = "clip"
"""Before the colon of a model's name: a vision-language model of open_clip follows."""
