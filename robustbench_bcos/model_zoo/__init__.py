"""Who is attacked: cards, encodings, B-cos layers, architectures, weights.

Everything between a pixel and a logit lives inside the model. Importing this package does not import torch.
"""
