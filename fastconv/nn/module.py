"""`Module` and `Parameter`: named trees of parameters, buffers and layers, as in torch.nn."""

from typing import Any, NamedTuple

import numpy as np

from .._device import as_array, device_of, move
from ..autograd import Tensor, Variable, is_grad_enabled


class Parameter(Tensor):
    """A Tensor that a module owns and an optimizer changes. Arrays are shared, not copied."""

    __slots__ = ()

    def __init__(self, data, requires_grad=True):
        super().__init__(data, requires_grad)

    def __repr__(self):
        return f"Parameter containing:\n{super().__repr__()}"


class _Keys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]


class LoadResult(_Keys):
    """What `load_state_dict(strict=False)` did not find, what it found no place for, and what did not fit.

    A pair (missing_keys, unexpected_keys), as in torch, with a third attribute: unfit_keys, name to a text with both
    shapes.
    """

    unfit_keys: dict[str, str]

    def __new__(cls, missing_keys, unexpected_keys, unfit_keys):
        result = super().__new__(cls, missing_keys, unexpected_keys)
        result.unfit_keys = unfit_keys
        return result

    def __repr__(self):
        return f"{super().__repr__()[:-1]}, unfit_keys={self.unfit_keys!r})"


class Module:
    """Base of all layers and networks: subclass it, set parameters and layers as attributes, write `forward`.

    Parameters and modules set as attributes are registered; `register_buffer` registers arrays that are saved but not
    trained. Call the module, not `forward`: under `no_grad`, arrays in then give arrays out.
    """

    training: bool
    frozen = False

    def __init__(self):
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_buffers", {})
        object.__setattr__(self, "_modules", {})
        self.training = True

    def forward(self, *args, **kwargs) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args, **kwargs) -> Any:
        out = self.forward(*args, **kwargs)
        if is_grad_enabled():
            return out
        for a in (*args, *kwargs.values()):
            if isinstance(a, Variable):
                return out
        return out if isinstance(out, np.ndarray) else _arrays(out)

    # -- attributes --------------------------------------------------------------------------------------------------

    def __setattr__(self, name, value):
        registries = self.__dict__.get("_parameters"), self.__dict__.get("_buffers"), self.__dict__.get("_modules")
        if isinstance(value, (Parameter, Module)):
            if registries[0] is None:
                raise AttributeError(f"{type(self).__name__}: call super().__init__() before setting {name!r}")
            self._register(self._parameters if isinstance(value, Parameter) else self._modules, name, value)
            return
        for registry in registries:
            if registry is not None and name in registry:
                if value is not None and registry is not self._buffers:
                    wanted = "a Parameter" if registry is self._parameters else "a Module"
                    raise TypeError(f"{type(self).__name__}.{name} wants {wanted} or None, got {type(value).__name__}")
                registry[name] = value if value is None or registry is not self._buffers else _buffer(name, value)
                return
        object.__setattr__(self, name, value)

    def __getattr__(self, name):
        for registry in ("_parameters", "_buffers", "_modules"):
            found = self.__dict__.get(registry)
            if found is not None and name in found:
                return found[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name):
        for registry in (self._parameters, self._buffers, self._modules):
            if name in registry:
                del registry[name]
                return
        object.__delattr__(self, name)

    def __dir__(self):
        return [*super().__dir__(), *self._parameters, *self._buffers, *self._modules]

    def _register(self, registry, name, value):
        """A name is in one place only; one that is replaced keeps its position."""
        for other in (self._parameters, self._buffers, self._modules, self.__dict__):
            if other is not registry:
                other.pop(name, None)
        registry[name] = value

    def register_parameter(self, name, param):
        """Register `param`, a Parameter or None, under `name`."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"parameter {name!r} wants a Parameter or None, got {type(param).__name__}")
        self._register(self._parameters, name, param)

    def register_buffer(self, name, array):
        """Register `array`, or None, as part of the state that is saved but not trained."""
        self._register(self._buffers, name, None if array is None else _buffer(name, array))

    def add_module(self, name, module):
        """Register `module` under `name`."""
        if not isinstance(module, Module):
            raise TypeError(f"module {name!r} wants a Module, got {type(module).__name__}")
        self._register(self._modules, name, module)

    # -- walks -------------------------------------------------------------------------------------------------------

    def named_children(self):
        """(name, module) of the modules directly inside this one."""
        return ((name, m) for name, m in self._modules.items() if m is not None)

    def children(self):
        return (m for _, m in self.named_children())

    def named_modules(self, prefix=""):
        """(dotted name, module) of this module and all inside it, each once, in the order they were registered."""
        return self._walk(prefix, set())

    def _walk(self, prefix, seen):
        if id(self) not in seen:
            seen.add(id(self))
            yield prefix, self
            for name, module in self.named_children():
                yield from module._walk(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self):
        return (m for _, m in self.named_modules())

    def get_submodule(self, target):
        """The module with the dotted name `target`."""
        module = self
        for name in target.split(".") if target else []:
            if not isinstance(module, Module) or name not in module._modules:
                raise AttributeError(f"{type(self).__name__} has no submodule {target!r}")
            module = module._modules[name]
        return module

    def named_parameters(self, prefix="", recurse=True):
        """(dotted name, Parameter), each Parameter once."""
        return self._members("_parameters", prefix, recurse)

    def parameters(self, recurse=True):
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix="", recurse=True):
        """(dotted name, array)."""
        return self._members("_buffers", prefix, recurse)

    def buffers(self, recurse=True):
        return (b for _, b in self.named_buffers(recurse=recurse))

    def _members(self, registry, prefix, recurse):
        seen = set()
        for path, module in self.named_modules(prefix) if recurse else [(prefix, self)]:
            for name, value in module.__dict__[registry].items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    # -- modes -------------------------------------------------------------------------------------------------------

    def train(self, mode=True):
        """Training mode for this module and all inside it: dropout drops, batch norm uses the batch's statistics."""
        for module in self.modules():
            module.training = bool(mode) and not module.frozen
        return self

    def eval(self):
        """Evaluation mode: `train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad=True):
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def freeze(self, frozen=True):
        """Keep this module and all inside it as they are, for transfer learning: no gradients, and evaluation
        mode that `train()` leaves alone, so that batch norms keep their running statistics too.

        Modules set afterwards, such as a new head, are not frozen.  `freeze(False)` undoes it.
        """
        for module in self.modules():
            module.frozen = bool(frozen)
        return self.requires_grad_(not frozen).train(not frozen)

    def zero_grad(self):
        """Drop the gradients of all parameters."""
        for p in self.parameters():
            p.grad = None

    def apply(self, fn):
        """Call `fn(module)` for every module inside, then for this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def to(self, target):
        """Move parameters and buffers to a device, "cpu" or "cuda", or cast the floating-point ones to a dtype;
        gradients included. Parameters stay the same objects, so optimizers made before keep them."""
        if isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda"):
            return self._moved(target)
        dtype = np.dtype(target)
        if dtype.kind != "f":
            raise TypeError(f"to: wants a floating-point dtype, got {dtype}")
        for p in self.parameters():
            if p.dtype.kind == "f":
                grad, p.grad = p.grad, None
                p.data = p.data.astype(dtype, copy=False)
                p.grad = None if grad is None else grad.detach().astype(dtype)
        for module in self.modules():
            for name, b in module._buffers.items():
                if b is not None and b.dtype.kind == "f":
                    module._buffers[name] = b.astype(dtype, copy=False)
        return self

    def _moved(self, device):
        for p in self.parameters():
            grad, p.grad = p.grad, None
            p.data = move(p.data, device)
            p.grad = None if grad is None else grad.detach().to(device)
        for module in self.modules():
            for name, b in module._buffers.items():
                if b is not None:
                    module._buffers[name] = move(b, device)
        return self

    def cuda(self):
        return self.to("cuda")

    def cpu(self):
        return self.to("cpu")

    def float(self):
        return self.to(np.float32)

    def double(self):
        return self.to(np.float64)

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self, prefix="") -> dict[str, np.ndarray]:
        """Dotted names to the arrays of all parameters and buffers, shared with the module, in torch's order."""
        state = {prefix + name: p.data for name, p in self._parameters.items() if p is not None}
        state.update({prefix + name: b for name, b in self._buffers.items() if b is not None})
        for name, module in self.named_children():
            state.update(module.state_dict(f"{prefix}{name}."))
        return state

    def load_state_dict(self, state_dict, strict=True) -> LoadResult:
        """Copy arrays (or Tensors) of any device into parameters and buffers of the same names, cast to their dtypes.

        Everything is checked before anything is copied.  If `strict`, raises one ValueError that lists all missing and
        all unexpected names and all arrays of another shape; otherwise what fits is copied and the rest is returned.
        """
        own = self.state_dict()
        given = {name: as_array(a._data if isinstance(a, Variable) else a) for name, a in state_dict.items()}
        missing = [name for name in own if name not in given]
        unexpected = [name for name in given if name not in own]
        unfit = {name: _misfit(given[name], own[name]) for name in own if name in given}
        unfit = {name: problem for name, problem in unfit.items() if problem}
        if strict and (missing or unexpected or unfit):
            problems = [f"{name}: {problem}" for name, problem in unfit.items()]
            problems += [f"missing: {', '.join(missing)}"] if missing else []
            problems += [f"unexpected: {', '.join(unexpected)}"] if unexpected else []
            raise ValueError(
                "\n    ".join([f"load_state_dict: {type(self).__name__} does not take this state", *problems])
            )
        for name, array in given.items():
            if name in own and name not in unfit:
                own[name][...] = move(array, device_of(own[name]))
        return LoadResult(missing, unexpected, unfit)

    # -- text --------------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The arguments shown between the parentheses."""
        return ""

    def _repr_lines(self):
        return [f"({name}): {m!r}" for name, m in self._modules.items()]

    def __repr__(self):
        lines = [line.replace("\n", "\n  ") for line in self._repr_lines()]
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        return "\n  ".join([f"{type(self).__name__}({extra}", *lines]) + "\n)"


def _buffer(name, array):
    array = as_array(array._data if isinstance(array, Variable) else array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"buffer {name!r} wants numbers, got dtype {array.dtype}")
    return array


def _misfit(given, wanted):
    """Why `given` can't be copied into `wanted`; empty if it can."""
    if given.shape != wanted.shape:
        return f"given shape {given.shape}, wanted {wanted.shape}"
    return "" if given.dtype.kind in "fiub" else f"given dtype {given.dtype}, wanted numbers"


def _arrays(out):
    """The plain arrays in a result: a Tensor, or a tuple, list or dict with Tensors in it."""
    if isinstance(out, Variable):
        return out._data
    if isinstance(out, (tuple, list)):
        items = [_arrays(o) for o in out]
        return type(out)(*items) if hasattr(out, "_fields") else type(out)(items)
    if isinstance(out, dict):
        return {key: _arrays(o) for key, o in out.items()}
    return out
