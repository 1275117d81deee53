"""A reader of pickles that can't run anything: a stack machine of its own whose only values are data.

A pickle is a program for a small stack machine, and Python's own machine lets it import and call whatever it likes.
Here a name that the pickle imports is looked up in a table that the caller gives and in nothing else; a call calls what
that table holds; every other instruction builds numbers, text, lists, tuples and dicts.  What is not in the table is
refused by name.  Instructions: the standard library's pickletools, which describes them and takes a pickle apart.
"""

import pickletools

_NUMBERS = ("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_CONSTANT = frozenset((*_NUMBERS, *_TEXTS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"))
_FIXED = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_SILENT = frozenset(("PROTO", "FRAME"))
_KEYS = (str, int, float, bytes, type(None))  # what may name an entry: nothing nested


class RefusedError(ValueError):
    """The pickle asks for something that is not data."""


class _Mark:
    """The place on the stack that MARK leaves."""


class _Imported:
    """A function of the table of imports, by its name in the pickle."""

    def __init__(self, name, call):
        self.name, self.call = name, call


def read_pickle(source, imports, persistent=None):
    """The value of the next pickle in `source`, bytes or a file.

    imports: dotted name -> function that a pickle may call by that name, or any other value that the name stands for.
    persistent: called with each persistent id, gives its value.
    Raises RefusedError, a ValueError, for every import that the table lacks and every instruction that plain data does
    not need, and ValueError for a damaged pickle.
    """
    machine = _Machine(imports, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(source):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except RefusedError:
        raise
    except (LookupError, TypeError, AttributeError, OverflowError, ValueError) as error:
        raise ValueError(f"damaged pickle: {error}") from error
    raise ValueError("damaged pickle: it has no end")


class _Machine:
    def __init__(self, imports, persistent):
        self.imports, self.persistent = imports, persistent
        self.stack, self.memo = [], {}

    def step(self, name, argument):
        if name in _CONSTANT:
            self.stack.append(argument)
        elif name in _FIXED:
            self.stack.append(_FIXED[name]())
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name not in _SILENT:
            method = getattr(self, f"do_{name.lower()}", None)
            if method is None:
                raise RefusedError(f"it uses the pickle instruction {name}, which no state needs")
            method(argument)

    # -- the stack

    def pop(self):
        value = self.stack.pop()
        if value is _Mark:
            raise IndexError("a mark where a value is wanted")
        return value

    def pop_to_mark(self):
        items = []
        while (item := self.stack.pop()) is not _Mark:
            items.append(item)
        return items[::-1]

    def top(self, kind):
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise TypeError(f"{kind.__name__} wanted, {type(value).__name__} found")
        return value

    def do_mark(self, _):
        self.stack.append(_Mark)

    def do_pop(self, _):
        self.stack.pop()

    def do_pop_mark(self, _):
        self.pop_to_mark()

    def do_dup(self, _):
        self.stack.append(self.stack[-1])

    # -- the memo

    def do_put(self, index):
        self.memo[index] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, index):
        self.stack.append(self.memo[index])

    do_binget = do_long_binget = do_get

    # -- containers

    def do_tuple(self, _):
        self.stack.append(tuple(self.pop_to_mark()))

    def do_tuple1(self, _):
        self._tuple(1)

    def do_tuple2(self, _):
        self._tuple(2)

    def do_tuple3(self, _):
        self._tuple(3)

    def _tuple(self, count):
        self.stack.append(tuple([self.pop() for _ in range(count)][::-1]))

    def do_list(self, _):
        self.stack.append(self.pop_to_mark())

    def do_append(self, _):
        item = self.pop()
        self.top(list).append(item)

    def do_appends(self, _):
        items = self.pop_to_mark()
        self.top(list).extend(items)

    def do_dict(self, _):
        items = self.pop_to_mark()
        self.stack.append({})
        self._set(items)

    def do_setitem(self, _):
        value = self.pop()
        self._set([self.pop(), value])

    def do_setitems(self, _):
        self._set(self.pop_to_mark())

    def _set(self, items):
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):
                raise TypeError(f"an entry named by a {type(key).__name__}")
            target[key] = value

    # -- names, calls and references

    def do_global(self, argument):
        self._import(*argument.split(" ", 1))

    def do_stack_global(self, _):
        name, module = self.pop(), self.pop()
        self._import(module, name)

    def _import(self, module, name):
        full = f"{module}.{name}"
        if full not in self.imports:
            raise RefusedError(f"it tries to import {full}, which is neither tensor nor plain data")
        value = self.imports[full]
        self.stack.append(_Imported(full, value) if callable(value) else value)

    def do_reduce(self, _):
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Imported) or not isinstance(arguments, tuple):
            raise RefusedError(f"it tries to call a {type(function).__name__}")
        self.stack.append(function.call(*arguments))

    do_newobj = do_reduce

    def do_build(self, _):
        """Attributes of an object: dicts and tensors have some in torch's files, none of which is part of the state."""
        self.pop()
        if isinstance(self.stack[-1], _Imported):
            raise RefusedError(f"it tries to change {self.stack[-1].name}")

    def do_binpersid(self, _):
        if self.persistent is None:
            raise RefusedError("it refers to something outside")
        self.stack.append(self.persistent(self.pop()))
