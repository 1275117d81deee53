"""What passes share: constants made from constants, and questions and changes that keep a graph in order."""


class Derived:
    """Arrays made from constants of a graph, kept: the next plan of the same network finds them."""

    def __init__(self):
        self._made = {}

    def __call__(self, function, *arrays, **settings):
        """function(*arrays, **settings), computed once for the same arrays (the very objects) and settings."""
        key = function, tuple(map(id, arrays)), repr(sorted(settings.items()))
        if key not in self._made:
            self._made[key] = arrays, function(*arrays, **settings)  # with the arrays, so that their ids stay theirs
        return self._made[key][1]


def only_reader(graph, name, readers):
    """The one node that reads a value, once, or None; readers: graph.consumers()."""
    found = readers.get(name, [])
    return found[0] if len(found) == 1 and name not in graph.outputs else None


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
