"""How far a result may be from the float64 oracle: one rule for every test."""

import numpy as np

# Algorithms that pay for fewer multiplications with accuracy: how many times the error of a plain sum they may make.
_LOOSER = {"winograd": 4.0, "fft": 4.0}


def relative(dtype, terms, algorithm=""):
    """The largest allowed error of a sum of `terms` products, in units of the sum's scale.

    Rounding errors of a sequential sum of independent terms grow as the square root of their number, relative to the
    sum's scale (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2); at 256 channels and 3x3 taps this
    is 1.2e-5 in float32.
    """
    unit = np.finfo(dtype).eps / 2
    factor = max((looser for name, looser in _LOOSER.items() if name in algorithm), default=1.0)
    return float(unit * (8 + 4 * np.sqrt(max(terms, 1))) * factor)


def assert_close(actual, expected, dtype, terms, scale, algorithm=""):
    """`actual` has this dtype and the shape of `expected`, and no value is further from it than allowed.

    scale: what a typical value is in size, an array of `expected`'s shape (its maximum counts), or a number; for a sum
    of products, the root of the sum of the squared products.
    """
    assert actual.dtype == np.dtype(dtype), f"dtype {actual.dtype}, wanted {np.dtype(dtype)}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, wanted {expected.shape}"
    if not actual.size:
        return
    allowed = relative(dtype, terms, algorithm) * float(np.max(scale))
    error = np.abs(actual - expected)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
    assert error[worst] <= allowed, (
        f"error {error[worst]:.3g} at {tuple(map(int, worst))}, allowed {allowed:.3g}: "
        f"{actual[worst]!r} where the oracle has {expected[worst]!r}; {np.mean(error > allowed):.1%} of all are off"
    )
