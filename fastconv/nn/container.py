"""Modules that hold modules, as in torch.nn."""

import itertools
import math

from ..autograd import Variable
from ..ops.norm import can_clamp
from .activation import ReLU, ReLU6
from .module import Module
from .norm import BatchNorm1d, BatchNorm2d, BatchNorm3d


class Identity(Module):
    """Returns its input; arguments are ignored."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, input):
        return input


class _Indexed(Module):
    """Modules under the names "0", "1", ...; index, slice, iterate, append, extend, insert."""

    def __len__(self):
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules.values())

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._like(list(self._modules.items())[index])
        return self._modules[self._name(index)]

    def __setitem__(self, index, module):
        self.add_module(self._name(index), module)

    def __delitem__(self, index):
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else [self._name(index)]:
            del self._modules[name]
        self._renumber(list(self._modules.values()))

    def _like(self, items):
        raise NotImplementedError

    def _name(self, index):
        names = list(self._modules)
        if not -len(names) <= index < len(names):
            raise IndexError(f"{type(self).__name__}: index {index} is out of range for {len(names)} modules")
        return names[index]

    def _renumber(self, modules):
        self._modules.clear()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def append(self, module):
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules):
        for module in modules:
            self.append(module)
        return self

    def insert(self, index, module):
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)
        return self


class Sequential(_Indexed):
    """Applies modules in order. Takes modules, or one dict of name to module."""

    def __init__(self, *args):
        super().__init__()
        named = (
            args[0].items()
            if len(args) == 1 and isinstance(args[0], dict)
            else ((str(i), m) for i, m in enumerate(args))
        )
        for name, module in named:
            self.add_module(name, module)

    def _like(self, items):
        return type(self)(dict(items))

    def forward(self, input):
        modules = list(self._modules.values())
        i = 0
        while i < len(modules):
            high = _clamp(modules, i, input)
            if high is None:
                input = modules[i](input)
            else:  # two layers in one pass over memory, with the same result
                input = modules[i].clamped(input, high)
            i += 1 if high is None else 2
        return input


_CLAMPS = {ReLU: math.nan, ReLU6: 6.0}


def _clamp(modules, i, input):
    """The upper bound of a ReLU or ReLU6 that can be part of the batch norm of training before it, or None."""
    module = modules[i]
    if type(module) not in (BatchNorm1d, BatchNorm2d, BatchNorm3d) or not module.training or i + 1 == len(modules):
        return None
    high = _CLAMPS.get(type(modules[i + 1]))
    if high is None or "forward" in vars(module) or "forward" in vars(modules[i + 1]):  # somebody looks on
        return None
    return high if isinstance(input, Variable) and can_clamp(input) else None


class ModuleList(_Indexed):
    """A list of modules, registered. It has no forward: index or iterate it."""

    def __init__(self, modules=None):
        super().__init__()
        self.extend(modules or ())

    def _like(self, items):
        return type(self)([module for _, module in items])

    def _repr_lines(self):
        """Equal neighbours share a line."""
        lines, first = [], 0
        for text, group in itertools.groupby(map(repr, self)):
            count = len(list(group))
            last = first + count - 1
            lines.append(f"({first}): {text}" if count == 1 else f"({first}-{last}): {count} x {text}")
            first += count
        return lines


class ModuleDict(Module):
    """Modules by name, registered. It has no forward: index it, iterate its names, values() or items()."""

    def __init__(self, modules=None):
        super().__init__()
        self.update(modules or {})

    def __len__(self):
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules)

    def __contains__(self, name):
        return name in self._modules

    def __getitem__(self, name):
        return self._modules[name]

    def __setitem__(self, name, module):
        self.add_module(name, module)

    def __delitem__(self, name):
        del self._modules[name]

    def keys(self):
        return self._modules.keys()

    def values(self):
        return self._modules.values()

    def items(self):
        return self._modules.items()

    def update(self, modules):
        """Add the modules of a dict, or of pairs of name and module."""
        for name, module in dict(modules).items():
            self.add_module(name, module)

    def pop(self, name):
        """Remove a module and return it."""
        return self._modules.pop(name)
