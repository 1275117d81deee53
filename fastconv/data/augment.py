"""Small random changes to training images."""

import numpy as np


def random_shift(images, distance, random):
    """Each image moved by its own random distance, rows and columns apart; zeros come in at the border.

    images: (N, C, H, W) floating point; distance: the furthest move in pixels, 0 to 1, between pixels by linear
    interpolation; random: a np.random.Generator.  Returns a new array of the same shape and dtype.
    """
    if images.ndim != 4:
        raise ValueError(f"random_shift: images must be (N, C, H, W), given shape {images.shape}")
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"random_shift: images must be floating point, given {images.dtype}")
    if not 0 <= distance <= 1:
        raise ValueError(f"random_shift: distance must be from 0 to 1 pixel, given {distance}")
    moves = random.uniform(-distance, distance, (2, len(images), 1, 1, 1)).astype(images.dtype)
    return _shift(_shift(images, moves[0], axis=2), moves[1], axis=3)


def _shift(images, move, axis):
    """Output pixel i = (1 - |move|) * pixel i + |move| * the neighbour that the move brings in."""
    before = np.zeros_like(images)
    after = np.zeros_like(images)
    left, right = [slice(None)] * 4, [slice(None)] * 4
    left[axis], right[axis] = slice(None, -1), slice(1, None)
    before[tuple(right)] = images[tuple(left)]
    after[tuple(left)] = images[tuple(right)]
    weight = np.abs(move)
    return (1 - weight) * images + weight * np.where(move > 0, before, after)
