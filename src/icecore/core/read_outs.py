"""What an output layer may read of the hidden states: the words of the setting `read_out`.

"last", "first" and "mean" read one hidden state. "pool-N" reads N of them: the means over N equal parts of the
sequence (adaptive average pooling), so that the order of what was seen is not lost. Several words are joined with +,
and what they read lies side by side.
"""

from icecore.core.errors import ConfigError
from icecore.core.settings import is_whole_number, one_of
from icecore.core.text import shortened

READ_OUTS = ("last", "first", "mean")
POOL = "pool-"
MAX_POOL = 1024


def kinds_of(read_out: str) -> tuple[str, ...]:
    """The words of a read-out: "last+mean" is ("last", "mean")."""
    return tuple(read_out.split("+"))


def parts_of(kind: str) -> int:
    """How many hidden states a word reads: N for "pool-N", otherwise 1."""
    return int(kind.removeprefix(POOL)) if kind.startswith(POOL) else 1


def hidden_states_of(read_out: str) -> int:
    """How many hidden states are read side by side, at each position that has an answer."""
    return sum(parts_of(kind) for kind in kinds_of(read_out))


def check_read_out(name: str, read_out: str) -> None:
    """Raise ConfigError unless `read_out` names what can be read, joined with +."""
    kinds = kinds_of(read_out)
    for kind in kinds:
        if kind.startswith(POOL):
            _check_pool(name, kind)
        else:
            one_of("read-out", (*READ_OUTS, f"{POOL}N"))(name, kind)
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"{name}: {read_out} names one read-out twice. Name each once.")


def _check_pool(name: str, kind: str) -> None:
    number = kind.removeprefix(POOL)
    # a leading zero would be another name of the same read-out
    if number.startswith("0") or not is_whole_number(number, 2, MAX_POOL):
        found = shortened(kind)
        raise ConfigError(f"{name}: {POOL}N takes a whole number of parts from 2 to {MAX_POOL:,}, found {found}.")
