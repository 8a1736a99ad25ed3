"""Weights files: read them, find the network's tensors, infer or match the architecture, assign, convert and write."""
