"""Reading pickled data files without running code: containers, strings, numbers and numpy values only.

Public data sets (CIFAR-10's Python batches, TAPE's LMDB) are pickles; an ordinary unpickler would run
whatever a file asks for.
"""

import pickle
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from icecore.core.errors import DataError


def _dtype(code: bytes | str, align: int = 0, copy: int = 0) -> np.dtype:
    # Python 2 pickled the flags as integers, which numpy no longer takes
    return np.dtype(code.decode() if isinstance(code, bytes) else code, bool(align), bool(copy))


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin-1")


# The only globals a pickle may name. numpy's constructors come from its own reductions, because the
# modules that hold them are named differently in numpy 1 and 2.
_PLAIN: Mapping[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): _latin1,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
}


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every global that is not plain data, hence all code."""

    def find_class(self, module: str, name: str) -> Any:
        """The object a pickle asks for by name, if it is one that holds data. Raises UnpicklingError."""
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key not in _PLAIN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not plain data")
        return _PLAIN[key]


def unpickle(data: bytes, place: str, encoding: str = "ASCII") -> Any:
    """The plain data in a pickle; anything that could run code is refused. Raises DataError naming `place`.

    `encoding` is that of Python 2's strings; "bytes" leaves them as they are.
    """
    try:
        return _PlainUnpickler(BytesIO(data), encoding=encoding).load()
    except Exception as error:  # damaged pickles raise nearly anything
        raise DataError(f"{place}: not a pickle of plain data ({error}); fetch or copy it again") from error
