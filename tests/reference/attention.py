"""Vision transformers' position code and attention in NumPy float64, one number at a time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def position_code(rows: int, columns: int, features: int) -> Array:
    """Four quarters of the features: sine and cosine of the column, sine and cosine of the row."""
    quarter = features // 4
    code = np.zeros((rows * columns, features))
    for token, feature in np.ndindex(code.shape):
        row, column = divmod(token, columns)
        part, index = divmod(feature, quarter)
        frequency = 10_000 ** (-index / (quarter - 1))
        angle = (column if part < 2 else row) * frequency
        code[token, feature] = np.sin(angle) if part % 2 == 0 else np.cos(angle)
    return code


def layer_norm(token: Array, weight: Array, bias: Array | None = None) -> Array:
    """One token less its mean, divided by its deviation."""
    centred = token - token.mean()
    normed = centred / np.sqrt((centred**2).mean() + 1e-5) * weight
    return normed if bias is None else normed + bias


def softmax(scores: Sequence[float]) -> Array:
    """Positive numbers that sum to one."""
    exponents = np.exp(np.array(scores) - max(scores))
    return np.asarray(exponents / exponents.sum())


def attended(tokens: Array, qkv: Array, heads: int) -> tuple[Array, Array]:
    """What each token receives, the heads side by side; and how much of whom, (head, receiver, giver).

    Rows of ``qkv`` are those of all queries, then of all keys, then of all values; each of them head by head.
    """
    count, features = tokens.shape
    size = features // heads
    queries, keys, values = (tokens @ part.T for part in np.split(qkv, 3))
    received, shares = np.zeros((count, features)), np.zeros((heads, count, count))
    for head, receiver in np.ndindex(heads, count):
        own = slice(head * size, (head + 1) * size)
        scores = [float(queries[receiver, own] @ keys[giver, own]) / np.sqrt(size) for giver in range(count)]
        shares[head, receiver] = softmax(scores)
        for giver in range(count):
            received[receiver, own] += shares[head, receiver, giver] * values[giver, own]
    return received, shares
