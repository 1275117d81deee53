"""Padding layers: arguments and repr of torch.nn.  The work is that of `functional.pad`."""

from .. import functional as F
from .module import Module


class _PadNd(Module):
    """padding: one number for all sides, or (before, after) of the last axis, then of the one before it, and so on.

    Input with one or two axes before those that are padded; negative numbers crop.
    """

    _dims: int
    _mode: str

    def __init__(self, padding):
        super().__init__()
        name, sides = type(self).__name__, 2 * self._dims
        self.padding = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * sides
        if len(self.padding) != sides:
            raise ValueError(f"{name}: padding must be one number or {sides}, got {padding!r}")

    def forward(self, input):
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self):
        return str(self.padding)


class _ConstantPadNd(_PadNd):
    def __init__(self, padding, value):
        super().__init__(padding)
        self.value = value

    def forward(self, input):
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self):
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPadNd):
    """The border is one number."""

    _dims = 1


class ConstantPad2d(_ConstantPadNd):
    """The border is one number."""

    _dims = 2


class ConstantPad3d(_ConstantPadNd):
    """The border is one number."""

    _dims = 3


class ZeroPad1d(_PadNd):
    """The border is zero."""

    _dims, _mode = 1, "constant"


class ZeroPad2d(_PadNd):
    """The border is zero."""

    _dims, _mode = 2, "constant"


class ZeroPad3d(_PadNd):
    """The border is zero."""

    _dims, _mode = 3, "constant"


class ReflectionPad1d(_PadNd):
    """The border is the mirrored image without its outermost pixels."""

    _dims, _mode = 1, "reflect"


class ReflectionPad2d(_PadNd):
    """The border is the mirrored image without its outermost pixels."""

    _dims, _mode = 2, "reflect"


class ReflectionPad3d(_PadNd):
    """The border is the mirrored image without its outermost pixels."""

    _dims, _mode = 3, "reflect"


class ReplicationPad1d(_PadNd):
    """The border repeats the outermost pixels."""

    _dims, _mode = 1, "replicate"


class ReplicationPad2d(_PadNd):
    """The border repeats the outermost pixels."""

    _dims, _mode = 2, "replicate"


class ReplicationPad3d(_PadNd):
    """The border repeats the outermost pixels."""

    _dims, _mode = 3, "replicate"


class CircularPad1d(_PadNd):
    """The border is the other end of the image."""

    _dims, _mode = 1, "circular"


class CircularPad2d(_PadNd):
    """The border is the other end of the image."""

    _dims, _mode = 2, "circular"


class CircularPad3d(_PadNd):
    """The border is the other end of the image."""

    _dims, _mode = 3, "circular"
