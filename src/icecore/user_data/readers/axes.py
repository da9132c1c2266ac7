"""The order of the axes of series in arrays and in the cells of tables: time first, as documented, or last."""

from icecore.user_data.data_settings import Axes, DataSettings
from icecore.user_data.notes import Note


def find_axes(shape: tuple[int, ...], settings: DataSettings) -> tuple[Axes, list[Note]]:
    """The order of the axes of an array of series, and a note if the other one is likely.

    The second axis is time, as documented, unless it has one point: sktime and aeon put time last.
    """
    _, second, last = shape
    shown = f"({shape[0]}, {second}, {last})"
    if settings.axes != "auto":
        return settings.axes, []
    if second == 1 < last:
        message = f"the last axis of {shown} is time: {last} points of one value (--axes values-last: one point)"
        return "time-last", [("axes", message)]
    if second < last:
        message = f"{shown} has {second} points in time with {last} values each; if time is last, set --axes time-last"
        return "values-last", [("axes", message)]
    return "values-last", []
