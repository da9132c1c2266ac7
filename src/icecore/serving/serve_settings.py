"""Limits of a server and how it gathers rows, as one frozen value."""

from dataclasses import dataclass

from icecore.core.settings import at_least, check_settings, must, positive, setting

# Headings of the command line's help.
GATHERING, LIMITS = "Gathering rows", "Limits"
#: bytes that a request may unpack to, for each byte of the largest one
UNPACKED_PER_BYTE = 8
#: pixels of its images, likewise: photographs rarely have more, and 500 million take some seconds to decode
PIXELS_PER_BYTE = 32

_is_positive = must(positive, "a number above 0")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How rows are gathered into passes, and how much a request and the queue may hold.

    The help text of each field says what it is. Raises ConfigError for values outside their range.
    """

    wait_ms: float = setting(
        5.0,
        help="Longest time that a pass waits for further rows, in milliseconds. A lone caller never waits.",
        check=must(lambda wait: 0 <= wait <= 10_000, "0 to 10,000"),
        group=GATHERING,
    )
    workers: int | None = setting(
        None,
        help="Passes through a body at the same time, which share the cores.",
        check=at_least(1),
        group=GATHERING,
        default_note="one for each of up to 4 cores, and 1 on a GPU",
    )
    max_rows: int = setting(128, help="Maximum rows per pass.", check=at_least(1), group=GATHERING)
    compile: bool = setting(
        False,
        help="Compile kernels for each body when it is loaded, which takes up to half a minute and makes large passes "
        "faster.",
        group=GATHERING,
    )
    max_queue: int = setting(
        512,
        help="Maximum rows that wait for a body. Further requests get the status 429 and the time to come back.",
        check=at_least(1),
        group=LIMITS,
    )
    max_request_rows: int = setting(10_000, help="Maximum rows per request.", check=at_least(1), group=LIMITS)
    max_request_mib: float = setting(
        16.0, help="Largest request, and largest program to be put, in MiB.", check=_is_positive, group=LIMITS
    )
    read_seconds: float = setting(
        30.0, help="Longest time that a request may take to arrive, in seconds.", check=_is_positive, group=LIMITS
    )

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def max_bytes(self) -> int:
        """Bytes of the largest request."""
        return int(self.max_request_mib * 2**20)

    @property
    def max_unpacked_bytes(self) -> int:
        """Bytes that the file in a request may unpack to."""
        return UNPACKED_PER_BYTE * self.max_bytes

    @property
    def max_pixels(self) -> int:
        """Pixels of all images of a request."""
        return PIXELS_PER_BYTE * self.max_bytes
