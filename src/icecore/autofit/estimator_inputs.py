"""The forms in which rows and labels come to a scikit-learn estimator, and mistakes in them as ValueError."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icecore.core.errors import DataError, UserError
from icecore.user_data.columns import column_from_values


class InputError(DataError, ValueError):
    """Data that an estimator cannot use; a ValueError, because scikit-learn expects one."""


@contextmanager
def value_errors() -> Iterator[None]:
    """Raise mistakes in the data as ValueError."""
    try:
        yield
    except UserError as error:
        raise InputError(str(error)) from error


def numbered(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns under the names of those of an array, because scikit-learn knows no names but texts."""
    return {f"x{number}": values for number, values in enumerate(columns.values())}


def is_mapping(X: Any) -> bool:
    """Whether X holds columns by name without being a data frame, which scikit-learn can check."""
    return isinstance(X, Mapping)


def known_labels(y: Any) -> Any:
    """The class labels, if all are there and of one type. Raises DataError, and leaves other shapes to scikit-learn."""
    is_known = isinstance(y, list | tuple | np.ndarray) or hasattr(y, "iloc")
    if not is_known or (isinstance(y, np.ndarray) and y.dtype.kind != "O") or np.ndim(y) != 1:
        return y
    column = column_from_values("y", y)
    missing = int(column.is_missing().sum())
    is_number = column.type == "number" and column.origin == "float"
    if missing and not is_number:  # scikit-learn names nan among numbers
        texts = np.asarray(y, object)
        empty = sum(isinstance(label, str) for label in texts[column.is_missing()])
        if missing > empty:
            raise DataError(f"{missing:,} of {len(texts):,} labels are missing. Leave these rows out.")
        return np.asarray(y)
    return np.asarray(y if is_number or not isinstance(y, np.ndarray) else y.tolist())


def is_image_array(X: Any, kind: str) -> bool:
    """Whether X is an array of images: (N, H, W, C), or (N, H, W) if the kind is "images"."""
    return isinstance(X, np.ndarray) and (X.ndim == 4 or (X.ndim == 3 and kind == "images"))


def is_object_table(X: Any) -> bool:
    """Whether X is an array (N, columns) with texts."""
    if not isinstance(X, np.ndarray) or X.ndim != 2:
        return False
    return X.dtype.kind == "U" or (X.dtype.kind == "O" and any(isinstance(item, str) for item in X.flat))


def select_rows(X: Any, keep: NDArray[np.bool_]) -> Any:
    """The rows of X to keep (N,)."""
    if isinstance(X, Mapping):
        return {name: np.asarray(values)[keep] for name, values in X.items()}
    return X[keep] if isinstance(X, np.ndarray) else [row for row, kept in zip(X, keep, strict=True) if kept]


def is_texts(X: Any) -> bool:
    """Whether X is a list of texts."""
    return isinstance(X, list | tuple | np.ndarray) and len(X) > 0 and all(isinstance(row, str) for row in X)


def is_list(X: Any) -> bool:
    """Whether the rows of X do not form one array: they are texts, or sequences (T,) or (T, V) of unequal lengths."""
    rows = isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1)
    return is_texts(X) or (rows and len({np.shape(row) for row in X if np.ndim(row)}) > 1)


def dimensions(X: Any) -> int:
    """Number of axes of X; 2 for tables of other packages."""
    return np.ndim(X) if isinstance(X, list | tuple) else getattr(X, "ndim", 2)
