"""What passes share: constants made from constants, and questions and changes that keep a graph in order."""

import weakref

import numpy as np

SMALL = 1 << 12  # bytes; arrays no larger are kept


class Derived:
    """Arrays made from constants of a graph: made once while somebody holds them, and once more when they are gone.

    So weights that were rewritten need not be kept when they have been packed: the next plan of the same network finds
    what was packed by its `key`, or makes them again.
    """

    def __init__(self):
        self._made = {}  # key -> what the function gave, large arrays as weak references
        self._keys = {}  # id of an array -> (weak reference to it, key)
        self._given = {}  # id -> an array that was not made here, so that its id stays its own

    def key(self, array):
        """What an array was made of, or its identity: equal for the same array made again."""
        if array is None:
            return None
        reference, key = self._keys.get(id(array), (None, None))
        if reference is not None and reference() is array:
            return key
        self._given[id(array)] = array
        return id(array)

    def __call__(self, function, *arrays, **settings):
        """function(*arrays, **settings), an array or a tuple of them."""
        key = function, tuple(map(self.key, arrays)), repr(sorted(settings.items()))
        found = _strong(self._made.get(key))
        if found is None:
            found = function(*arrays, **settings)
            several = isinstance(found, tuple)
            self._made[key] = tuple(map(self._weak, found)) if several else self._weak(found)
            for i, array in enumerate(found if several else (found,)):
                if isinstance(array, np.ndarray):
                    self._keys[id(array)] = weakref.ref(array), (*key, i)
        return found

    @staticmethod
    def _weak(array):
        return weakref.ref(array) if isinstance(array, np.ndarray) and array.nbytes > SMALL else array


def _strong(made):
    """What was made, if all of it is still there, else None."""
    if isinstance(made, tuple):
        arrays = tuple(map(_strong, made))
        return None if any(array is None for array in arrays) else arrays
    return made() if isinstance(made, weakref.ref) else made


def only_reader(graph, name, readers):
    """The one node that reads a value, once, or None; readers: graph.consumers()."""
    found = readers.get(name, [])
    return found[0] if len(found) == 1 and name not in graph.outputs else None


def fixed_weights(graph, node, producer, readers):
    """Why the weights of a layer cannot take in what its reader `node` does, or None."""
    name = producer.name or producer.op
    if only_reader(graph, producer.outputs[0], readers) is not node:
        return f"{name} is read by others too"
    if any(constant(graph, weights) is None for weights in producer.inputs[1:] if weights is not None):
        return f"the weights of {name} are not constant"
    if len(producer.inputs) > 3 or producer.attrs.get("low") is not None or producer.attrs.get("high") is not None:
        return f"{name} does more than multiply"
    return None


def add_constant(graph, stem, array):
    """The name of a new constant."""
    name = graph.fresh(stem)
    graph.constants[name] = array
    return name


def constant(graph, name):
    """The array of a constant; None for other values and for inputs that are not there."""
    return None if name is None else graph.constants.get(name)


def drop(graph, nodes):
    """Take nodes out of the graph."""
    gone = set(map(id, nodes))
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def take_over(graph, node, follower):
    """`node` makes what its only reader `follower` made, which goes; the node's other outputs stay."""
    node.outputs = (follower.outputs[0], *node.outputs[1:])
    drop(graph, [follower])


def times(weights, scale):
    """weights * scale in the precision of `scale`, rounded to the dtype of the weights, without an array in between."""
    return np.multiply(weights, scale, out=np.empty_like(weights), casting="unsafe")
