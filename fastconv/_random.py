"""The one random generator of initialisers and dropout."""

import numpy as np

_generator = np.random.default_rng(0)


def manual_seed(seed: int) -> np.random.Generator:
    """Start the generator anew; the same seed gives the same weights and the same dropout masks, bit for bit."""
    global _generator
    _generator = np.random.default_rng(seed)
    return _generator


def generator() -> np.random.Generator:
    """The generator, seeded with 0 until `manual_seed` is called. Its methods are safe to call from several threads."""
    return _generator
