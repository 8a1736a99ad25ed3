"""The distance from an image to the decision boundary of a network of one hidden layer of ReLUs, exactly, in NumPy.

Within one pattern of active units the network is linear, so that the nearest image of a wrong class is the solution of
a small linear program (l1, linf) or least-squares problem (l2; Lawson & Hanson, 1974, chapter 23). All patterns are
tried.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, nnls

Array = NDArray[np.float64]


@dataclass(frozen=True)
class HiddenLayer:
    """Logits are ``readout @ relu(features @ pixels + offset) + bias``."""

    features: Array
    offset: Array
    readout: Array
    bias: Array

    def distance(self, pixels: Array, label: int, norm: str) -> float:
        """Of the smallest perturbation within [0, 1] after which another class is at least level with the label."""
        nearest = {"l1": _by_program, "l2": _by_least_squares, "linf": _by_program}[norm]
        units, classes = len(self.offset), len(self.bias)
        found = np.inf
        for active, wrong in product(product([0.0, 1.0], repeat=units), set(range(classes)) - {label}):
            slope = self.readout[wrong] - self.readout[label]
            gate = np.array(active)
            signs = 2 * gate - 1
            # What has to be at least 0: the active units, the others negated, and the lead of the wrong class.
            rows = np.vstack([signs[:, None] * self.features, (slope * gate) @ self.features])
            constants = [*(signs * self.offset), (slope * gate) @ self.offset + self.bias[wrong] - self.bias[label]]
            found = min(found, nearest(rows, -(rows @ pixels + np.array(constants)), pixels, norm))
        return found


def _by_program(rows: Array, least: Array, pixels: Array, norm: str) -> float:
    """Smallest size of a delta with ``rows @ delta >= least``: delta is up minus down, both at least 0."""
    count = len(pixels)
    if norm == "l1":
        cost, above = np.ones(2 * count), np.empty((0, 2 * count))
    else:
        cost, above = np.eye(2 * count + 1)[-1], np.hstack([np.eye(2 * count), -np.ones((2 * count, 1))])
    spare = np.zeros((len(rows), len(cost) - 2 * count))
    upper = np.vstack([np.hstack([-rows, rows, spare]), above])
    room = [*zip(np.zeros(count), 1 - pixels, strict=True), *zip(np.zeros(count), pixels, strict=True)]
    limits = np.concatenate([-least, np.zeros(len(above))])
    solved = linprog(cost, upper, limits, bounds=[*room, *[(0, None)] * (len(cost) - 2 * count)])
    return float(solved.fun) if solved.success else np.inf


def _by_least_squares(rows: Array, least: Array, pixels: Array, norm: str) -> float:
    box = np.vstack([rows, np.eye(len(pixels)), -np.eye(len(pixels))])
    limits = np.concatenate([least, -pixels, pixels - 1])
    system, goal = np.vstack([box.T, limits]), np.eye(len(pixels) + 1)[-1]
    solution, residual = nnls(system, goal)
    if residual < 1e-9:
        return np.inf
    left = system @ solution - goal
    return float(np.linalg.norm(left[:-1] / left[-1]))
