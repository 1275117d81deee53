"""The non-local operation (Wang et al. 2018, "Non-local Neural Networks", arXiv 1711.07971, equation 1).

theta (n, d, positions), phi (n, d, others), g (n, e, others) -> y (n, e, positions):

    y_i = 1 / C sum over j of f(theta_i, phi_j) g_j

softmax  f = e^(theta_i . phi_j), C the sum of f over j    (Gaussian and embedded Gaussian, equations 2 and 3)
dot      f = theta_i . phi_j, C the number of j            (equation 4)
relu     f = max(theta_i . phi_j, 0), C the number of j    (concatenation, equation 5, with theta_i = (w_t . t_i, 1) and
         phi_j = (1, w_p . p_j): the sum of both is their product)

No matrix of all pairs is in memory: softmax and relu compute it block by block, forward and backward; dot is regrouped.
"""

from .._registry import select
from ..autograd import Op, matmul, swap
from ..driver import launch
from ..kernels.non_local import RELU, SOFTMAX, NonLocalSpec
from ..packing import dense
from .checks import floating, same_dtype


class NonLocal(Op):
    """y from (theta, phi, g)."""

    name = "non_local"
    twice = False

    @staticmethod
    def forward(ctx, theta, phi, g, function):
        spec = _spec(theta, g, function)
        buffers = {"theta": dense(theta), "phi": dense(phi), "g": dense(g)}
        launch(*select("non_local.fwd", spec).emit(spec, buffers))
        y, log = buffers["finish"]()
        ctx.save(theta, phi, g, y)
        ctx.log, ctx.function = log, function
        return y

    @staticmethod
    def backward(ctx, gy):
        theta, phi, g, y = map(dense, ctx.saved)
        spec = _spec(theta, g, ctx.function)
        buffers = {"theta": theta, "phi": phi, "g": g, "y": y, "log": ctx.log, "gy": dense(gy)}
        launch(*select("non_local.bwd", spec).emit(spec, buffers))
        return (*buffers["finish"](), None)


def _spec(theta, g, function):
    (n, depth, rows), (_, e, columns) = theta.shape, g.shape
    return NonLocalSpec(n, depth, e, rows, columns, function, theta.dtype.name)


def _check(theta, phi, g):
    op = "non_local"
    theta = floating(op, "theta", theta)
    phi, g = same_dtype(op, "phi", phi, theta), same_dtype(op, "g", g, theta)
    shapes = f"theta {tuple(theta.shape)}, phi {tuple(phi.shape)}, g {tuple(g.shape)}"
    if not theta.ndim == phi.ndim == g.ndim == 3:
        raise ValueError(f"{op}: theta, phi and g must have 3 dimensions (n, channels, positions), given {shapes}")
    if theta.shape[:2] != phi.shape[:2]:
        raise ValueError(f"{op}: theta and phi must have the same batch and channels, given {shapes}")
    if phi.shape[0] != g.shape[0] or phi.shape[2] != g.shape[2]:
        raise ValueError(f"{op}: phi and g must have the same batch and positions, given {shapes}")
    if not g.shape[2] or not theta.shape[1]:
        raise ValueError(f"{op}: phi and g must have at least one position, theta and phi one channel, given {shapes}")
    return theta, phi, g


def non_local(theta, phi, g, function="softmax"):
    """Each position's weighted mean of g: theta (n, d, p), phi (n, d, q), g (n, e, q) -> (n, e, p).

    function: "softmax", "dot" or "relu", see the module's docstring.  Raises ValueError or TypeError with given and
    wanted shapes.
    """
    theta, phi, g = _check(theta, phi, g)
    if function == "dot":
        return matmul(matmul(g, swap(phi, 1, 2)), theta) / g.shape[2]
    if function not in ("softmax", "relu"):
        raise ValueError(f'non_local: function must be "softmax", "dot" or "relu", given {function!r}')
    if 0 in (theta.shape[0], theta.shape[2], g.shape[1]):
        return matmul(matmul(g, swap(phi, 1, 2)), theta)  # an empty result, whatever the weights
    return NonLocal.apply(theta, phi, g, SOFTMAX if function == "softmax" else RELU)
