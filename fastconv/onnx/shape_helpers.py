"""Checks that operators share."""

import numpy as np


def in_range(indices, size):
    """Indices counted from the front; IndexError with the first that is out of range."""
    wrong = (indices < -size) | (indices >= size)
    if np.any(wrong):
        raise IndexError(f"index {np.asarray(indices)[wrong].reshape(-1)[0]} is out of range for {size}")
    return np.where(indices < 0, indices + size, indices).astype(np.int64)
