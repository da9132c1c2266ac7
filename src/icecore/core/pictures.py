"""Pictures: which formats there are, and the extra that draws them."""

from pathlib import Path

from icecore.core.errors import ConfigError
from icecore.core.extras import require_packages

PICTURE_FORMATS = ("png", "svg", "pdf")


def require_drawing() -> None:
    """Raise UserError, with a remedy, without the extra `plot`."""
    require_packages("Drawing", "plot", "matplotlib")


def picture_format(path: Path) -> str:
    """The format of a picture by its ending, PNG if it has none. Raises ConfigError for unknown endings."""
    ending = path.suffix.lstrip(".").lower() or "png"
    if ending not in PICTURE_FORMATS:
        known = ", ".join(f".{each}" for each in PICTURE_FORMATS)
        raise ConfigError(f"{path}: The name of a picture must end in one of {known}.")
    return ending
