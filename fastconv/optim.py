"""Optimizers and learning-rate schedules with the names, arguments and results of torch.optim.

Updates run in place: SGD's as one kernel over all parameters, others array by array through one scratch buffer per
optimizer.  A step allocates nothing.
"""

import bisect
import math
from collections import Counter

import numpy as np

from ._device import ARRAYS, DeviceArray, device_of, leaf, move
from .autograd import Tensor
from .ops import descent


class Optimizer:
    """Parameters in groups, each with its own options. Subclasses write `_update(p, g, state, group)`.

    params: Tensors, or dicts {"params": Tensors, option: value, ...}.
    """

    def __init__(self, params, defaults):
        self.defaults = defaults
        self.param_groups = []
        self.state = {}
        self._scratch = {}
        groups = list(params)
        if not groups:
            raise ValueError(f"{type(self).__name__}: got no parameters")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group):
        """Add a dict with "params" and options that differ from the defaults."""
        name = type(self).__name__
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        known = {id(p) for group in self.param_groups for p in group["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"{name}: parameters must be Tensors, got {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError(f"{name}: a parameter of shape {p.shape} is not a leaf: it was made by an operation")
            if id(p) in known:
                raise ValueError(f"{name}: a parameter of shape {p.shape} is given twice")
            known.add(id(p))
        self.param_groups.append({"params": params, **self.defaults, **_without_params(param_group)})

    def zero_grad(self):
        """Drop all gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self, closure=None):
        """One update of every parameter that has a gradient. Returns closure(), called first, if given."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            self._update_group(group)
        return loss

    def _update_group(self, group):
        for p in group["params"]:
            if p.grad is not None:
                g = p.grad._data
                self._update(p.data, g, self.state.setdefault(p, {}), group)

    def _update(self, p, g, state, group):
        raise NotImplementedError

    def _buffer(self, like, which=0):
        """Scratch of the shape and dtype of `like`; it lasts until the next call with the same `which`."""
        key = like.dtype, device_of(like), which
        flat = self._scratch.get(key)
        if flat is None or flat.size < like.size:
            flat = self._scratch[key] = np.empty_like(like).reshape(-1)
        return flat[: like.size].reshape(like.shape)

    def state_dict(self) -> dict:
        """{"state": per parameter number, "param_groups": options and parameter numbers}; arrays are shared."""
        numbers = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = [
            {**_without_params(group), "params": [numbers[p] for p in group["params"]]} for group in self.param_groups
        ]
        return {"state": {numbers[p]: dict(s) for p, s in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict):
        """Take over what `state_dict` returned, arrays copied; groups must have as many parameters as here."""
        groups = state_dict["param_groups"]
        given, wanted = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if given != wanted:
            raise ValueError(f"{type(self).__name__}: state has groups of {given} parameters, wanted {wanted}")
        params = [p for group in self.param_groups for p in group["params"]]
        numbers = [n for g in groups for n in g["params"]]
        by_number = dict(zip(numbers, params, strict=True))
        self.state = {}
        for n, values in state_dict["state"].items():
            device = by_number[n].device
            self.state[by_number[n]] = {key: _copied(v, device) for key, v in values.items()}
        for group, new in zip(self.param_groups, groups, strict=True):
            group.update(_without_params(new))


def _without_params(group):
    return {key: v for key, v in group.items() if key != "params"}


def _copied(v, device):
    """An array of a state, copied to the device where its parameter is; a number as it is."""
    return move(v.copy(), device) if isinstance(v, ARRAYS) else v


def _not_negative(name, **options):
    for option, v in options.items():
        if not v >= 0:
            raise ValueError(f"{name}: {option} must not be negative, got {v}")


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum v + (1 - dampening) d, p -= lr v, with d = g + weight_decay p.

    nesterov (Sutskever et al. 2013): p -= lr (d + momentum v). maximize follows the gradient uphill.
    """

    def __init__(self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, *, maximize=False):
        _not_negative("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"SGD: nesterov needs momentum and no dampening, got {momentum} and {dampening}")
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "nesterov": nesterov, "maximize": maximize})

    def _update_group(self, group):
        """All parameters of one dtype at once."""
        together, moving = {}, group["momentum"] != 0
        for p in group["params"]:
            if p.grad is None:
                continue
            array, g, state = p.data, p.grad._data, self.state.setdefault(p, {})
            v = state.get("momentum_buffer") if moving else None
            if not array.size or not descent.fits(array, g, v):
                self._update(array, g, state, group)
                continue
            begin = moving and v is None
            if begin:
                v = state["momentum_buffer"] = np.empty_like(array)
            together.setdefault(array.dtype, []).append((array, g, v, begin))
        names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
        options = [group[name] for name in names]
        for dtype, parameters in together.items():
            descent.sgd(dtype, parameters, *options)

    def _update(self, p, g, state, group):
        if isinstance(p, DeviceArray):
            leaf(p.device).sgd(p, g, state, group)
            return
        momentum = group["momentum"]
        scratch = self._buffer(p)
        sign = -1 if group["maximize"] else 1
        d = g
        if group["weight_decay"]:
            d = np.multiply(p, sign * group["weight_decay"], out=scratch)
            d += g
        if momentum:
            v = state.get("momentum_buffer")
            if v is None:
                v = state["momentum_buffer"] = np.multiply(d, sign, out=np.empty_like(p))
            else:
                v *= momentum
                v += np.multiply(d, sign * (1 - group["dampening"]), out=self._buffer(p, 1))
            if group["nesterov"]:
                ahead = np.multiply(v, sign * momentum, out=self._buffer(p, 1))
                d = np.add(d, ahead, out=scratch)
            else:
                d, sign = v, 1
        p -= np.multiply(d, sign * group["lr"], out=scratch)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014, arXiv:1412.6980); weight_decay is added to the gradient. amsgrad: arXiv:1904.09237."""

    _decoupled = False

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, *, maximize=False
    ):
        name = type(self).__name__
        _not_negative(name, lr=lr, eps=eps, weight_decay=weight_decay)
        if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
            raise ValueError(f"{name}: betas must be two numbers from 0 to below 1, got {betas}")
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "amsgrad": amsgrad, "maximize": maximize})

    def _update(self, p, g, state, group):
        """p -= lr m^ / (sqrt(v^) + eps), with m^ = m / (1 - beta1^t) and v^ = v / (1 - beta2^t)."""
        if isinstance(p, DeviceArray):
            leaf(p.device).adam(p, g, state, group, self._decoupled)
            return
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        if not state:
            state.update(step=0, exp_avg=np.zeros_like(p), exp_avg_sq=np.zeros_like(p))
        state["step"] += 1
        m, v, scratch = state["exp_avg"], state["exp_avg_sq"], self._buffer(p)
        if group["maximize"]:
            g = np.negative(g, out=self._buffer(p, 1))
        if decay and self._decoupled:
            p *= 1 - lr * decay
        elif decay:
            np.multiply(p, decay, out=scratch)
            g = np.add(g, scratch, out=self._buffer(p, 1))
        m += np.multiply(np.subtract(g, m, out=scratch), 1 - beta1, out=scratch)
        np.multiply(g, g, out=scratch)
        scratch *= 1 - beta2
        v *= beta2
        v += scratch
        if group["amsgrad"]:
            v = np.maximum(state.setdefault("max_exp_avg_sq", v.copy()), v, out=state["max_exp_avg_sq"])
        np.sqrt(v, out=scratch)
        scratch /= math.sqrt(1 - beta2 ** state["step"])
        scratch += group["eps"]
        np.divide(m, scratch, out=scratch)
        scratch *= lr / (1 - beta1 ** state["step"])
        p -= scratch


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    _decoupled = True

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *, maximize=False
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


# -- schedules ---------------------------------------------------------------------------------------------------------


class LRScheduler:
    """Sets the learning rate of an optimizer's groups: once when made, then at every `step()`, after the optimizer's.

    Subclasses write `get_lr()`: one rate per group for `last_epoch`.
    """

    def __init__(self, optimizer, last_epoch=-1):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: wants an Optimizer, got {type(optimizer).__name__}")
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(f"{type(self).__name__}: group {i} has no 'initial_lr' to resume from at {last_epoch}")
        self.optimizer = optimizer
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._resuming = last_epoch >= 0
        self.step()
        self._resuming = False

    def get_lr(self) -> list[float]:
        raise NotImplementedError

    def step(self):
        """Go one epoch on."""
        self.last_epoch += 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr

    def get_last_lr(self) -> list[float]:
        """The rate each group has now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict:
        return {key: v for key, v in self.__dict__.items() if key not in ("optimizer", "_resuming")}

    def load_state_dict(self, state_dict):
        self.__dict__.update(state_dict)

    def _scaled(self, factor):
        return [group["lr"] * factor for group in self.optimizer.param_groups]


class StepLR(LRScheduler):
    """Times gamma every `step_size` epochs."""

    def __init__(self, optimizer, step_size, gamma=0.1, last_epoch=-1):
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return self._scaled(self.gamma if self.last_epoch and self.last_epoch % self.step_size == 0 else 1)


class MultiStepLR(LRScheduler):
    """Times gamma at each of the `milestones`."""

    def __init__(self, optimizer, milestones, gamma=0.1, last_epoch=-1):
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return self._scaled(self.gamma ** self.milestones[self.last_epoch])


class CosineAnnealingLR(LRScheduler):
    """From the first rate to `eta_min` in T_max epochs along half a cosine (arXiv:1608.03983), and back, and so on."""

    def __init__(self, optimizer, T_max, eta_min=0.0, last_epoch=-1):
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        t, low, groups = self.last_epoch, self.eta_min, self.optimizer.param_groups
        if t == 0:
            return self._scaled(1)
        if self._resuming:
            return [low + (base - low) * (1 + math.cos(math.pi * t / self.T_max)) / 2 for base in self.base_lrs]
        if (t - 1 - self.T_max) % (2 * self.T_max) == 0:
            turn = (1 - math.cos(math.pi / self.T_max)) / 2
            return [g["lr"] + (base - low) * turn for g, base in zip(groups, self.base_lrs, strict=True)]
        ratio = (1 + math.cos(math.pi * t / self.T_max)) / (1 + math.cos(math.pi * (t - 1) / self.T_max))
        return [ratio * (g["lr"] - low) + low for g in groups]


class LambdaLR(LRScheduler):
    """The first rate times lr_lambda(epoch); one function, or one per group."""

    def __init__(self, optimizer, lr_lambda, last_epoch=-1):
        count = len(optimizer.param_groups)
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * count
        if len(self.lr_lambdas) != count:
            raise ValueError(f"LambdaLR: {len(self.lr_lambdas)} functions for {count} parameter groups")
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self):
        """Functions are not part of the state."""
        return {key: v for key, v in super().state_dict().items() if key != "lr_lambdas"}


class OneCycleLR(LRScheduler):
    """Up to max_lr, then down to almost nothing, within total_steps (Smith and Topin 2017, arXiv:1708.07120).

    Call `step` after every batch. total_steps, or epochs and steps_per_epoch, must be given. Momentum (beta1 in Adam)
    goes the other way if cycle_momentum. three_phase: down to the first rate as fast as up, then to the last one.
    """

    def __init__(
        self,
        optimizer,
        max_lr,
        total_steps=None,
        epochs=None,
        steps_per_epoch=None,
        pct_start=0.3,
        anneal_strategy="cos",
        cycle_momentum=True,
        base_momentum=0.85,
        max_momentum=0.95,
        div_factor=25.0,
        final_div_factor=1e4,
        three_phase=False,
        last_epoch=-1,
    ):
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: wants total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if total_steps <= 0 or int(total_steps) != total_steps:
            raise ValueError(f"OneCycleLR: total_steps must be a positive whole number, got {total_steps}")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start must be from 0 to 1, got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        up = pct_start * total_steps - 1
        if three_phase:
            self._ends = [up, 2 * pct_start * total_steps - 2, total_steps - 1]
            self._rates = ["initial_lr", "max_lr", "initial_lr", "min_lr"]
            self._momenta = ["max_momentum", "base_momentum", "max_momentum", "max_momentum"]
        else:
            self._ends = [up, total_steps - 1]
            self._rates = ["initial_lr", "max_lr", "min_lr"]
            self._momenta = ["max_momentum", "base_momentum", "max_momentum"]
        if last_epoch == -1:
            groups = optimizer.param_groups
            self._prepare(groups, max_lr, div_factor, final_div_factor, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch)

    def _prepare(self, groups, max_lr, div_factor, final_div_factor, base_momentum, max_momentum):
        for i, group in enumerate(groups):
            group["max_lr"] = max_lr[i] if isinstance(max_lr, (list, tuple)) else max_lr
            group["initial_lr"] = group["max_lr"] / div_factor
            group["min_lr"] = group["initial_lr"] / final_div_factor
            if self.cycle_momentum:
                if "momentum" not in group and "betas" not in group:
                    raise ValueError("OneCycleLR: cycle_momentum needs an optimizer with momentum or betas")
                group["max_momentum"] = max_momentum[i] if isinstance(max_momentum, (list, tuple)) else max_momentum
                group["base_momentum"] = base_momentum[i] if isinstance(base_momentum, (list, tuple)) else base_momentum

    def get_lr(self):
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} is beyond the {self.total_steps} of the cycle")
        i = min(bisect.bisect_left(self._ends, t), len(self._ends) - 1)
        start = self._ends[i - 1] if i else 0
        along = (t - start) / (self._ends[i] - start) if self._ends[i] != start else 1.0
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(self._between(group[self._rates[i]], group[self._rates[i + 1]], along))
            if self.cycle_momentum:
                momentum = self._between(group[self._momenta[i]], group[self._momenta[i + 1]], along)
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return rates

    def _between(self, a, b, along):
        if self.anneal_strategy == "linear":
            return a + (b - a) * along
        return b + (a - b) / 2 * (1 + math.cos(math.pi * along))
