"""Spatial pyramid pooling: adaptive poolings of several sizes, side by side in one vector of fixed length.

Source: He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", 2014, arXiv
1406.4729, section 2.2.  The bins are those of adaptive pooling: [floor(i h / l), ceil((i + 1) h / l)).
"""

from ..autograd import cat, flatten
from ..pool_specs import check_input
from ..specs import whole_numbers
from . import pool
from .checks import array


def spatial_pyramid_pool2d(input, levels=(4, 2, 1), mode="max"):
    """Input (n, c, h, w) or (c, h, w) -> (n, c L) or (c L,), L the sum of the levels' bins: 21 for (4, 2, 1).

    levels: bins along each side of each level, a number or a tuple; mode: "max" or "avg".  A level's bins come in the
    order channel, row, column, after those of the levels before it.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    op = "spatial_pyramid_pool2d"
    check_input(op, 2, array(op, "input", input).shape, input.dtype)
    levels = whole_numbers(op, "levels", levels, len(levels) if isinstance(levels, (tuple, list)) else 1, 1)
    if not levels:
        raise ValueError(f"{op}: levels must have at least one value, given none")
    if mode not in ("max", "avg"):
        raise ValueError(f'{op}: mode must be "max" or "avg", given {mode!r}')
    adaptive = pool.adaptive_max_pool2d if mode == "max" else pool.adaptive_avg_pool2d
    return cat([flatten(adaptive(input, level), -3) for level in levels], -1)
