"""Reading pickled data files without running code: only containers, texts, numbers and NumPy arrays are built.

Some public data sets are pickles (CIFAR-10's Python batches, TAPE's LMDB). Neither Python's unpickler nor NumPy's own
reconstruction takes part, because both believe what a file says: with a crafted dtype, bytes of the file become object
pointers. The opcodes are interpreted here, and an array is made of bytes whose number was checked.
"""

import codecs
import math
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

import numpy as np

from icecore.core.errors import DataError
from icecore.core.text import reason
from icecore.tasks.data_files import FETCH_AGAIN, check_texts

Value = TypeVar("Value")

#: dtypes of plain values: booleans, integers, floats, and texts or bytes of a fixed length
_PLAIN_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|[SU]\d{1,6})")
#: what the state of a dtype may say besides its byte order: no fields, no shape, no flags of objects
_PLAIN_STATE = (None, None, None, -1, -1, 0)
#: what a key of a dictionary or a member of a set may be. A file cannot choose the hashes of texts; with numbers, it
#: could make all of them equal, and each look-up a walk through all keys. A nested tuple could overflow the stack
_KEY_TYPES = (str, bytes)
#: whole numbers below this are too few to be chosen so
_MAX_KEY = 2**24
#: the largest whole number; larger ones can be neither written in decimal digits nor used as a label
_MAX_WHOLE = 2**64


class _NotPlainError(Exception):
    """The pickle is damaged or asks for more than plain data."""


@dataclass
class _DType:
    """A dtype: its code, and the byte order that its state gives."""

    code: str
    order: str = "="

    def build(self) -> np.dtype[Any]:
        if not _PLAIN_DTYPE.fullmatch(self.code):
            raise _NotPlainError(f"it names the dtype {self.code[:40]!r}, which is not plain data")
        return np.dtype(self.code).newbyteorder("<" if self.order == "<" else ">" if self.order == ">" else "=")


class _EmptyArray:
    """The array that a pickle makes first; its shape and values follow."""

    def __init__(self, *_: object) -> None:
        self.memo_index: int | None = None


class _Constructor:
    """A name of `_CONSTRUCTORS` on the stack, which can only be called."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


def _as(kind: type[Value], value: Any) -> Value:
    if not isinstance(value, kind):
        raise _NotPlainError(f"it has a {type(value).__name__.strip('_')} where a {kind.__name__} is expected")
    return value


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else _as(str, value)


def _key(value: Any) -> Any:
    is_small = type(value) is int and abs(value) < _MAX_KEY
    if value is not None and not is_small and not isinstance(value, _KEY_TYPES):
        raise _NotPlainError(f"it has a {type(value).__name__} as a key")
    return value


def _filled(dtype: Any, shape: Any, data: Any, order: str) -> np.ndarray:
    """An array of exactly these bytes: its size is compared with theirs, so no memory is taken for a claim."""
    plain, sizes = _as(_DType, dtype).build(), [_as(int, size) for size in _as(tuple, shape)]
    raw = data.encode("latin-1") if isinstance(data, str) else bytes(data) if isinstance(data, bytearray) else data
    count = math.prod(sizes)
    if len(sizes) > 32 or min(sizes, default=0) < 0 or count * plain.itemsize != len(_as(bytes, raw)):
        raise _NotPlainError(f"its array of {plain} {tuple(sizes)} has {len(raw)} bytes")
    array = np.frombuffer(raw, plain, count).reshape(sizes, order="F" if order == "F" else "C")
    check_texts(array)
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    return _filled(dtype, (), data, "C")[()]


def _no_constructor(*_: object) -> Any:
    raise _NotPlainError("it calls ndarray")


#: The only names that a pickle may use. NumPy 2 calls its module `numpy._core`, NumPy 1 `numpy.core`.
_CONSTRUCTORS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("builtins.set", "__builtin__.set"), lambda items=(): {_key(item) for item in _as(list, items)}),
    "_codecs.encode": lambda text, encoding: _as(str, text).encode("latin-1"),
    "numpy.ndarray": _no_constructor,
    "numpy.dtype": lambda code, align=0, copy=0: _DType(_text(code)),
    "numpy.core.multiarray._reconstruct": _EmptyArray,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": lambda data, dtype, shape, order: _filled(dtype, shape, data, _text(order)),
}

_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
#: opcodes whose argument is the value
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def unpickle(data: bytes, location: str, encoding: str = "ASCII") -> Any:
    """The plain data in a pickle. Raises DataError naming `location` for damaged data and for anything like code.

    encoding  of texts from Python 2; "bytes" keeps them as bytes
    """
    try:
        return _Interpreter(data, encoding).load()
    except Exception as error:  # damaged pickles raise nearly anything
        raise DataError(f"{location}: not a pickle of plain data ({reason(error)}). {FETCH_AGAIN}") from error


class _Interpreter:
    """Runs the opcodes of one pickle on a stack of plain values."""

    def __init__(self, data: bytes, encoding: str) -> None:
        self.file, self.encoding = BytesIO(data), encoding
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value on top of the stack at the end. Raises nearly anything for damaged data."""
        while code := self.file.read(1):
            opcode = _OPCODES.get(code.decode("latin-1"))
            if opcode is None:
                raise _NotPlainError(f"it has no opcode {code!r}")
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name == "STRING":  # the table's own reader takes ASCII only
                quoted: Any = pickletools.read_stringnl(self.file, decode=False)  # type: ignore[arg-type]
                self.stack.append(self._python_2_text(codecs.escape_decode(quoted)[0]))
            else:
                self._run(opcode.name, opcode.arg.reader(self.file) if opcode.arg is not None else None)
        raise _NotPlainError("it is cut short")

    def _run(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            if isinstance(argument, int) and abs(argument) > _MAX_WHOLE:
                raise _NotPlainError("it has a whole number of more than 64 bits")
            stack.append(argument)
        elif name in ("BINSTRING", "SHORT_BINSTRING"):
            stack.append(self._python_2_text(argument.encode("latin-1")))
        elif name in _TUPLE_SIZES:
            items = stack[-_TUPLE_SIZES[name] :]
            stack[-_TUPLE_SIZES[name] :] = [tuple(items)]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memoize(len(self.memo) if argument is None else argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif (method := _METHODS.get(name)) is not None:
            method(self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise _NotPlainError(f"it uses the opcode {name}, which plain data do not need")

    def _python_2_text(self, raw: bytes) -> bytes | str:
        return raw if self.encoding == "bytes" else raw.decode(self.encoding)

    def _memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]
        if isinstance(self.stack[-1], _EmptyArray):
            self.stack[-1].memo_index = index

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _marked(self) -> list[Any]:
        """The values above the last mark, which leave the stack."""
        first = self.marks.pop()
        items = self.stack[first:]
        del self.stack[first:]
        return items

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append(dict(zip(map(_key, items[::2]), items[1::2], strict=True)))

    def _frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(map(_key, self._marked())))

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        _as(list, self.stack[-1]).append(item)

    def _extend(self, _: Any) -> None:
        items = self._marked()
        _as(list, self.stack[-1]).extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _as(dict, self.stack[-1])[_key(key)] = value

    def _set_items(self, _: Any) -> None:
        items = self._marked()
        _as(dict, self.stack[-1]).update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def _add_items(self, _: Any) -> None:
        items = self._marked()
        _as(set, self.stack[-1]).update(map(_key, items))

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _name(self, words: str | None) -> None:
        """Put a constructor on the stack; its name is the argument, or the two texts on the stack."""
        if words is None:
            name, module = _as(str, self.stack.pop()), _as(str, self.stack.pop())
            words = f"{module} {name}"
        full = words.replace(" ", ".").replace("numpy._core.", "numpy.core.")
        if full not in _CONSTRUCTORS:
            raise _NotPlainError(f"it names {full}, which is not plain data")
        self.stack.append(_Constructor(_CONSTRUCTORS[full]))

    def _call(self, _: Any) -> None:
        arguments, constructor = _as(tuple, self.stack.pop()), _as(_Constructor, self.stack.pop())
        self.stack.append(constructor.call(*arguments))

    def _build(self, _: Any) -> None:
        """Give a dtype its byte order, or an array its shape and values."""
        state, target = _as(tuple, self.stack.pop()), self.stack.pop()
        if isinstance(target, _DType):
            target.build()
            _, order, *rest = state
            if tuple(rest[:6]) != _PLAIN_STATE:
                raise _NotPlainError("it has a dtype with fields or objects, which is not plain data")
            target.order = _text(order)
            self.stack.append(target)
            return
        _, shape, dtype, is_fortran, data = state
        array = _filled(dtype, shape, data, "F" if is_fortran else "C")
        if (index := _as(_EmptyArray, target).memo_index) is not None:
            self.memo[index] = array
        self.stack.append(array)


_METHODS: Mapping[str, Callable[[_Interpreter, Any], None]] = {
    "MARK": _Interpreter._mark,
    "TUPLE": _Interpreter._tuple,
    "LIST": _Interpreter._list,
    "DICT": _Interpreter._dict,
    "FROZENSET": _Interpreter._frozenset,
    "APPEND": _Interpreter._append,
    "APPENDS": _Interpreter._extend,
    "SETITEM": _Interpreter._set_item,
    "SETITEMS": _Interpreter._set_items,
    "ADDITEMS": _Interpreter._add_items,
    "POP": _Interpreter._pop,
    "POP_MARK": _Interpreter._pop_mark,
    "GLOBAL": _Interpreter._name,
    "STACK_GLOBAL": _Interpreter._name,
    "REDUCE": _Interpreter._call,
    "BUILD": _Interpreter._build,
}
