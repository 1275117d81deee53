"""The list of all networks: what a builder declares, and how a network is found by its name."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from ..nn import Module, init


@dataclass(frozen=True)
class Network:
    """One line of the table.

    build(weights=None, **settings) makes the network; parameters and multiply_adds are those of its default settings,
    the latter for one input of `input_shape` in evaluation: products of convolutions, linear layers and attention,
    without biases, normalisation, activation and pooling.
    """

    name: str
    build: Callable[..., Module]
    paper: str
    parameters: int
    multiply_adds: int
    input_shape: tuple[int, ...]


NETWORKS: dict[str, Network] = {}


def network(paper, parameters, multiply_adds, input_shape=(3, 224, 224)):
    """Decorator of a builder: enters it in the list and gives it the argument `weights`.

    weights: None, or a dict of names to arrays such as `fc.load_state` returns; then the network is made without
    drawing initial weights, and every name and shape must fit.
    """

    def register(build):
        @functools.wraps(build)
        def builder(*, weights=None, **settings):
            if weights is None:
                return build(**settings)
            if not hasattr(weights, "items"):
                raise TypeError(
                    f"{build.__name__}: weights wants a dict of names to arrays, as load_state gives, got {weights!r}"
                )
            with init.skipped():
                model = build(**settings)
            model.load_state_dict(weights)
            return model

        entry = Network(build.__name__, builder, paper, parameters, multiply_adds, tuple(input_shape))
        NETWORKS[entry.name] = entry
        return builder

    return register


def list_models() -> list[str]:
    """The names of all networks, sorted."""
    return sorted(NETWORKS)


def get_model(name, *, weights=None, **settings):
    """The network called `name`, as the function of that name makes it.  Raises ValueError for an unknown name."""
    if name not in NETWORKS:
        raise ValueError(f"get_model: no network is called {name!r}; there are {', '.join(list_models())}")
    return NETWORKS[name].build(weights=weights, **settings)


def table(names=None) -> str:
    """The networks of these names, or all, as text: name, input, parameters and multiply-adds in millions, paper."""
    rows = [("network", "input", "params/M", "madds/M", "paper")]
    for name in list_models() if names is None else names:
        n = NETWORKS[name]
        shape = "x".join(map(str, n.input_shape))
        rows.append((name, shape, f"{n.parameters / 1e6:.2f}", f"{n.multiply_adds / 1e6:,.1f}", n.paper))
    wide = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{name:<{wide[0]}}  {shape:<{wide[1]}}  {params:>{wide[2]}}  {madds:>{wide[3]}}  {paper}"
        for name, shape, params, madds, paper in rows
    )
