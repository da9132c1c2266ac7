"""Reading pickled data files without running code: only containers, strings, numbers and NumPy values are built.

Some public data sets are pickles (CIFAR-10's Python batches, TAPE's LMDB). Python's own unpickler would run any code
that a file names.
"""

import pickle
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from icecore.core.errors import DataError
from icecore.tasks.data_files import FETCH_AGAIN


def _dtype(code: bytes | str, align: int = 0, copy: int = 0) -> np.dtype:
    # Python 2 pickled the flags as integers, which NumPy no longer accepts.
    return np.dtype(code.decode() if isinstance(code, bytes) else code, bool(align), bool(copy))


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin-1")


# The only globals that a pickle may name. NumPy's constructors are taken from its own pickles of plain values, because
# their modules have different names in NumPy 1 and 2.
_ALLOWED_GLOBALS: Mapping[tuple[str, str], Any] = {
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
    """An unpickler that refuses every global that is not plain data, and so all code."""

    def find_class(self, module: str, name: str) -> Any:
        """The object that a pickle names, if it holds plain data. Raises UnpicklingError for others."""
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key not in _ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not plain data")
        return _ALLOWED_GLOBALS[key]


def unpickle(data: bytes, location: str, encoding: str = "ASCII") -> Any:
    """The plain data in a pickle. Raises DataError naming `location` for damaged data and for anything like code.

    encoding  of strings from Python 2; "bytes" keeps them as bytes
    """
    try:
        return _PlainUnpickler(BytesIO(data), encoding=encoding).load()
    except Exception as error:  # damaged pickles raise nearly anything
        raise DataError(f"{location}: not a pickle of plain data ({error}). {FETCH_AGAIN}") from error
