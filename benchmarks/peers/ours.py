"""fastconv itself: the function, which may have to pack weights in every call, and the layer, which packs them once."""

import numba
import numpy as np

import fastconv
from fastconv.simd import isa

from ..layers import Case, MissingError
from ..measure import Candidate, UnsupportedError

NAMES = ("fastconv", "fastconv_layer")


def versions() -> dict[str, str]:
    """Versions for the report."""
    own = f"{fastconv.__version__} ({isa.name})"
    return {"fastconv": own, "numba": numba.__version__, "numpy": np.__version__}


def candidate(name: str, case: Case, which: str, arrays: dict[str, np.ndarray], threads: int) -> Candidate:
    """The function, or for the forward pass the layer in evaluation mode; to be run under no_grad."""
    fastconv.set_num_threads(threads)
    try:
        if name == "fastconv":
            return Candidate(case.functional(which, arrays))
        if which != "fwd":
            raise UnsupportedError("gradients are timed as functions")
        layer = case.layer(arrays)
    except MissingError as error:
        raise UnsupportedError(f"{error} is not there yet") from None
    return Candidate(lambda: layer(arrays["x"]))


def network(name: str, model: tuple, path: str, x: np.ndarray, threads: int) -> Candidate:
    """The compiled network; model: (name, weights, module)."""
    if name != "fastconv":
        raise UnsupportedError("networks are compiled")
    fastconv.set_num_threads(threads)
    net = fastconv.compile(model[2], x, check=False)

    def run():
        fastconv.set_num_threads(threads)
        return net(x)

    return Candidate(run, lambda y: y["out"] if isinstance(y, dict) else y)
