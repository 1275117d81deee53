"""Cases of the test tables made small enough for Numba's simulator, which needs a microsecond or more for each product.

What is kept: kernel, stride, dilation, padding, the remainder of the image behind the last window, whether there are
groups, multipliers, several images, more channels than a tile or a step of the device's kernels has, and dtype.
"""

from dataclasses import replace
from math import lcm, prod

from fastconv.kernels.cuda import gpu
from tests.oracle import each

GROUPS, IMAGES, OUTPUTS, CHANNELS = 3, 2, 4, 9  # what is worth having more than a tile of; then less


def _fewer_outputs(case, axis, to):
    """The case with `to` outputs along an axis, or as few as leave one pixel there."""
    stride, size = case.stride[axis], list(case.size)
    drop = min(case.out[axis] - to, (size[axis] - 1) // stride)
    size[axis] -= drop * stride
    return replace(case, size=tuple(size)) if drop > 0 else None


def _outputs(case, least, step):
    """Fewer outputs along the axis that has most of those that can lose some."""
    for axis in sorted(range(len(case.out)), key=lambda a: -case.out[a]):
        if case.out[axis] > least:
            smaller = _fewer_outputs(case, axis, max(least, step(case.out[axis])))
            if smaller is not None:
                return smaller
    return None


def _steps(case):
    """Smaller cases, the least loss of generality first."""
    if case.groups > GROUPS:
        yield replace(case, groups=GROUPS)
    if case.n > IMAGES and prod(case.out) > 8:
        yield replace(case, n=IMAGES)
    yield _outputs(case, OUTPUTS, lambda out: out // 2)
    for name, least in (("icg", CHANNELS), ("ocg", CHANNELS)):
        if getattr(case, name) > least:
            yield replace(case, **{name: max(least, getattr(case, name) // 2)})
    yield _outputs(case, 2, lambda out: out - 1)
    for name in ("icg", "ocg"):
        if getattr(case, name) > 2:
            yield replace(case, **{name: max(2, getattr(case, name) // 2)})


def shrunk(case, most):
    """A `ConvCase` of at most so many multiply-adds, if that can be; as it is where there is a GPU."""
    while gpu.SIMULATED and case.macs > most:
        smaller = next((new for new in _steps(case) if new is not None), None)
        if smaller is None:
            break
        case = smaller
    return case


def shrunk_pool(case, most):
    """A pooling of `test_pool.py` that reads at most so many values: fewer planes, then fewer outputs."""

    def reads(case):
        return case.n * case.c * prod(sum(len(inside) for inside, _ in axis) for axis in case.axes)

    while gpu.SIMULATED and reads(case) > most:
        outs = [len(axis) for axis in case.axes]
        axis = outs.index(max(outs))
        stride = None if case.kernel is None else each(case.stride or case.kernel, case.ndim)[axis]
        if case.c > 1:
            case = replace(case, c=case.c // 2)
        elif stride is None or outs[axis] <= OUTPUTS or case.size[axis] <= stride:
            break
        else:
            size = list(case.size)
            size[axis] -= min(max(outs[axis] // 2, 1), (size[axis] - 1) // stride) * stride
            case = replace(case, size=tuple(size))
    return case


def shrunk_layer(case, out, groups, offset_groups, most):
    """A case of `test_adder.py` or `test_deform_conv.py`; out: from a case to its size of the output."""
    if not gpu.SIMULATED:
        return case
    unit = lcm(groups, offset_groups)
    few = min(case.ic, -(-CHANNELS // unit) * unit), min(case.oc, -(-CHANNELS // groups) * groups)
    case = replace(case, n=min(case.n, IMAGES), ic=few[0], oc=few[1])
    while case.n * few[0] * few[1] // groups * prod(case.kernel) * prod(out(case)) > most:
        outs = out(case)
        axis = outs.index(max(outs))
        size, stride = list(case.size), case.stride[axis]
        if outs[axis] <= 2 or size[axis] <= stride:
            break
        size[axis] -= stride
        case = replace(case, size=tuple(size))
    return case


def table(cases, most):
    """Those that differ when shrunk."""
    return list({str(new): new for new in (shrunk(case, most) for case in cases)}.values())
