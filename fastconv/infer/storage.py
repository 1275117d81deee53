"""Where every value of a graph lies: which values share memory, and one arena for all, from their lifetimes.

Values that are views of another (reshapes, runs of a concatenation's axis) lie inside it; inputs of a concatenation are
made in their place in it; an elementwise result takes over its operand's memory when nobody reads that any more.  What
remains are blocks with a first and a last moment, laid into one arena without overlap of two that live at once.
"""

from math import prod
from typing import NamedTuple

from .rows import IN_PLACE, slices, strides

ALIGN = 64


class Place(NamedTuple):
    """Where a value lies: in the arena, or in an input's, output's or constant's array, at this many bytes."""

    region: str  # "arena", "input", "output", "constant", or "loose": its shape is found out by running
    name: str  # of the input, output or constant
    offset: int


def nbytes(t):
    return prod(t.shape) * t.dtype.itemsize


class Storage:
    """The places of all values of a graph.

    places: name -> Place; arena_bytes; views: values that are there once their input is; shared: value -> what it
    shares memory with, in words.
    """

    def __init__(self, graph, types):
        self._graph, self._types = graph, types
        self._parent = {}  # value -> (value it lies in, offset in bytes)
        self._index = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
        self._last = {}  # value -> the last node that reads it itself
        for i, node in enumerate(graph.nodes):
            self._last.update((name, i) for name in node.inputs if name is not None)
        self._last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
        self.shared, self.views = {}, set()
        self._make_views()
        self._make_concatenations()
        self._take_over()
        self._lay_out()

    # ---- which values share memory

    def _known(self, name):
        return self._types[name].shape is not None

    def _root(self, name):
        """(value that owns the memory, offset of this one in it)."""
        offset = 0
        while name in self._parent:
            name, more = self._parent[name]
            offset += more
        return name, offset

    def _given(self, root):
        return root in self._graph.inputs or root in self._graph.constants

    def _make_views(self):
        """Outputs of reshapes and of contiguous slices lie in their input."""
        for node in self._graph.nodes:
            if node.op not in ("reshape", "identity", "index") or not self._known(node.inputs[0]):
                continue
            source, view = node.inputs[0], node.outputs[0]
            if view in self._graph.outputs and (node.op != "reshape" or self._given(self._root(source)[0])):
                continue  # an output is an array of its own
            offset = 0
            if node.op == "index":
                found = slices(node.attrs["key"], self._types[source].shape)
                if found is None or not _is_run(*found[1:]):
                    continue
                offset = found[0] * self._types[source].dtype.itemsize
            self._parent[view] = source, offset
            self.views.add(view)
            self.shared[view] = f"a view of {source}"

    def _make_concatenations(self):
        """Inputs are made in their place in the output; the last concatenation first: what goes into several lies in
        the largest."""
        for node in reversed(self._graph.nodes):
            if node.op != "cat" or not self._is_concatenation_of_runs(node):
                continue
            output, offset, places = node.outputs[0], 0, []
            for name in node.inputs:
                places.append((name, offset))
                offset += nbytes(self._types[name])
            roots = [self._root(name) for name in node.inputs]
            base = roots[0][1]
            if (
                len(roots) > 1
                and output not in self._graph.outputs
                and all(root == (roots[0][0], base + at) for root, (_, at) in zip(roots, places, strict=True))
            ):
                self._parent[output] = roots[0]
                self.shared[output] = f"a part of {roots[0][0]}"
                continue
            for name, at in places:
                root, inside = self._root(name)
                whole = nbytes(self._types[root]) == nbytes(self._types[name]) and inside == 0
                if whole and root != output and not self._given(root) and root not in self._graph.outputs:
                    self._parent[root] = output, at
                    self.shared[name] = f"made in its place in {output}"

    def _is_concatenation_of_runs(self, node):
        output = self._types[node.outputs[0]]
        if output.shape is None or any(not self._known(name) for name in node.inputs):
            return False
        same = all(self._types[name].dtype == output.dtype for name in node.inputs)
        return same and prod(output.shape[: node.attrs["axis"]]) == 1

    def _take_over(self):
        """An elementwise result lies where its operand was, if nobody reads that afterwards."""
        members = {}
        for name in self._types:
            if self._known(name):
                root, offset = self._root(name)
                members.setdefault(root, []).append((offset, name))
        for i, node in enumerate(self._graph.nodes):
            for operand in IN_PLACE.get(node.op, ()):
                if operand < len(node.inputs) and self._try_take(i, node, node.inputs[operand], members):
                    break

    def _try_take(self, index, node, source, members):
        output = node.outputs[0]
        if source is None or not (self._known(source) and self._known(output)):
            return False
        (root, at), (target, target_at) = self._root(source), self._root(output)
        if self._types[source] != self._types[output] or self._given(root) or root == target:
            return False
        others = [name for name in node.inputs if name is not None]
        others.remove(source)
        if any(self._overlap(source, name) for name in others) or self._read_later(index, output, root, at, members):
            return False
        size = nbytes(self._types[source])
        if target == output and output not in self._graph.outputs:
            child, parent = output, (root, at)
        elif at == 0 and nbytes(self._types[root]) == size and root not in self._graph.outputs:
            child, parent = root, (target, target_at)
        else:
            return False
        self._parent[child] = parent
        moved = [(offset + parent[1], name) for offset, name in members.pop(child)]
        members[parent[0]] += moved
        self.shared[output] = f"in place of {source}"
        return True

    def _overlap(self, first, second):
        """Whether two values have bytes in common."""
        (root, at), (other, other_at) = self._root(first), self._root(second)
        sizes = nbytes(self._types[first]), nbytes(self._types[second])
        return root == other and at < other_at + sizes[1] and other_at < at + sizes[0]

    def _read_later(self, index, output, root, at, members):
        """Whether a value made before, in the same bytes, is still read after this node."""
        size = nbytes(self._types[output])
        # Nodes come in order: what is read for the last time by now says nothing to later ones either.
        members[root] = [each for each in members[root] if self._last.get(each[1], -1) > index]
        for offset, name in members[root]:
            overlaps = offset < at + size and at < offset + nbytes(self._types[name])
            if overlaps and name != output and self._index.get(name, -1) < index < self._last.get(name, -1):
                return True
        return False

    # ---- the arena

    def _lay_out(self):
        spans, self.places = {}, {}
        outputs = self._output_roots()
        for name in self._types:
            root, offset = self._root(name)
            if not self._known(name):
                self.places[name] = Place("loose", name, 0)
            elif root in self._graph.constants:
                self.places[name] = Place("constant", root, offset)
            elif root in self._graph.inputs:
                self.places[name] = Place("input", root, offset)
            elif root in outputs:
                self.places[name] = Place("output", outputs[root], offset)
            else:
                first, last = spans.get(root, (len(self._graph.nodes), -1))
                made = self._index[name]
                spans[root] = min(first, made), max(last, made, self._last.get(name, -1))
                self.places[name] = Place("arena", root, offset)
        starts, self.arena_bytes = _pack({root: (*span, nbytes(self._types[root])) for root, span in spans.items()})
        for name, place in self.places.items():
            if place.region == "arena":
                self.places[name] = Place("arena", "", place.offset + starts[place.name])

    def _output_roots(self):
        """Memory that an output fills alone is the array that the caller gets; other outputs are copied in the end."""
        found = {}
        for name in self._graph.outputs:
            if self._known(name) and not self._given(self._root(name)[0]):
                root, offset = self._root(name)
                if offset == 0 and nbytes(self._types[root]) == nbytes(self._types[name]):
                    found.setdefault(root, name)
        return found


def _is_run(shape, steps):
    """Whether the elements lie side by side."""
    return all(size == 1 or step == dense for size, step, dense in zip(shape, steps, strides(shape), strict=True))


def _pack(blocks):
    """Offsets for blocks {name: (first moment, last moment, bytes)}, the largest first, each as low as it fits; and the
    bytes in all."""
    placed, starts, total = [], {}, 0
    for name, (first, last, size) in sorted(blocks.items(), key=lambda item: (-item[1][2], item[1][0])):
        size = -(-size // ALIGN) * ALIGN
        start = 0
        for other_start, other_size, other_first, other_last in placed:  # ordered by start
            if first <= other_last and other_first <= last:
                if start + size <= other_start:
                    break
                start = max(start, other_start + other_size)
        starts[name] = start
        placed.append((start, size, first, last))
        placed.sort()
        total = max(total, start + size)
    return starts, total
