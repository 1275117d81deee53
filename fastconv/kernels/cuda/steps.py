"""Steps of the optimizers of `optim.py`, each one kernel over a parameter, its gradient and its state."""

from functools import lru_cache
from math import sqrt as root_of

import numpy as np

from .array import empty, zeros
from .elementwise import sqrt
from .gpu import THREADS, blocks_for, cuda, kernel
from .launch import Row, launch
from .shaping import dense

U = np.uint32


@lru_cache
def make_sgd(dtype, momentum, nesterov, first):
    """v = momentum v + (1 - dampening) d, p -= lr v, with d = g + decay p; variants: is there momentum, of Nesterov's
    kind, and is this the first step, where v = d."""
    MOMENTUM, NESTEROV, FIRST = momentum, nesterov, first

    @kernel(f"p:{dtype} g:{dtype} v:{dtype} n lr={dtype} momentum={dtype} damped={dtype} decay={dtype} sign={dtype}")
    def sgd_step(p, g, v, n, lr, momentum, damped, decay, sign):
        """sign: -1 to follow the gradient uphill; damped: 1 - dampening.  Thread: values, n in all."""
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            d = sign * g[i] + decay * p[i]
            if MOMENTUM:
                velocity = d if FIRST else momentum * v[i] + damped * d
                v[i] = velocity
                d = d + momentum * velocity if NESTEROV else velocity
            p[i] = p[i] - lr * d
            i = U(i + step)

    return sgd_step


@lru_cache
def make_adam(dtype, decoupled, amsgrad):
    """p -= rate m / (sqrt(v) / root + eps); `decoupled`: decay shrinks p itself; `amsgrad`: by the largest v so far."""
    DECOUPLED, AMSGRAD, REAL = decoupled, amsgrad, np.dtype(dtype).type

    @kernel(
        f"p:{dtype} g:{dtype} m:{dtype} v:{dtype} top:{dtype} n rate={dtype} root={dtype} beta1={dtype} beta2={dtype}",
        f"rest1={dtype} rest2={dtype} eps={dtype} decay={dtype} sign={dtype}",
    )
    def adam_step(p, g, m, v, top, n, rate, root, beta1, beta2, rest1, rest2, eps, decay, sign):
        """rate: lr / (1 - beta1^t); root: sqrt(1 - beta2^t); rest: 1 - beta; decay: 1 - lr decay if DECOUPLED.
        Thread: values, n in all."""
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            d, value = sign * g[i], p[i]
            if DECOUPLED:
                value = value * decay
            else:
                d = d + decay * value
            mean = m[i] + rest1 * (d - m[i])
            square = beta2 * v[i] + rest2 * d * d
            m[i] = mean
            v[i] = square
            if AMSGRAD:
                square = max(top[i], square)
                top[i] = square
            p[i] = value - rate * mean / (REAL(sqrt(square)) / root + eps)
            i = U(i + step)

    return adam_step


def kernels(dtype):
    """For the test that compiles them."""
    yield make_sgd(dtype, True, True, False)
    yield make_sgd(dtype, False, False, False)
    yield make_adam(dtype, True, True)
    yield make_adam(dtype, False, False)


def _launched(made, p, arguments):
    """Run on p, which is brought into C order and back if it is not."""
    flat = dense(p)
    launch(Row(made, blocks_for(p.size), THREADS, (flat, *arguments)))
    if flat is not p:
        p[...] = flat


def sgd(p, g, state, group):
    """One step of `optim.SGD`."""
    momentum, first = group["momentum"], "momentum_buffer" not in state
    v = p
    if momentum:
        v = state["momentum_buffer"] = empty(p.shape, p.dtype) if first else dense(state["momentum_buffer"])
    made = make_sgd(p.dtype.name, bool(momentum), bool(group["nesterov"]), first)
    numbers = group["lr"], momentum, 1 - group["dampening"], group["weight_decay"], -1 if group["maximize"] else 1
    _launched(made, p, (dense(g), dense(v), p.size, *map(float, numbers)))


def adam(p, g, state, group, decoupled):
    """One step of `optim.Adam`, or of AdamW, whose decay is decoupled."""
    (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
    if not state:
        state.update(step=0, exp_avg=zeros(p.shape, p.dtype), exp_avg_sq=zeros(p.shape, p.dtype))
    state["step"] += 1
    moments = [state["exp_avg"], state["exp_avg_sq"]]
    if group["amsgrad"]:
        moments.append(state.setdefault("max_exp_avg_sq", zeros(p.shape, p.dtype)))
    numbers = lr / (1 - beta1 ** state["step"]), root_of(1 - beta2 ** state["step"]), beta1, beta2, 1 - beta1, 1 - beta2
    numbers += group["eps"], 1 - lr * decay if decoupled else decay, -1 if group["maximize"] else 1
    arguments = dense(g), moments[0], moments[1], moments[-1], p.size, *map(float, numbers)
    _launched(make_adam(p.dtype.name, decoupled, bool(group["amsgrad"])), p, arguments)
