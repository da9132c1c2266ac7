"""What stands out in an inspection, in plain words: each sentence states numbers that passed a threshold of this file.

The thresholds say what is worth a sentence. They do not say that a body is bad: sinks and massive activations are
normal in language models that work.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from icecore.core.text import percent, pluralize
from icecore.inspection.layer_statistics import INPUT_STAGE, LAST_NORM, SINK_TIMES_UNIFORM, SINK_WEIGHT, Stage

#: share of a token's squared norm: more than this in one dimension is more than in all others together
DOMINANT_SHARE = 0.5
#: a massive activation is at least this many times the median magnitude (Sun et al. 2024, Section 2, which also asks
#: for a magnitude of 100; that depends on a body's scale and is left out)
MASSIVE_RATIO = 1000.0
#: mean cosine of tokens that look alike; independent tokens have 0, and no source gives a bound
ALIKE_COSINE = 0.9
#: share of a layer's heads with a sink that is worth a sentence
MANY_HEADS = 0.5
#: entropy relative to the largest possible one that hardly differs from uniform attention
UNIFORM_ENTROPY = 0.98
#: ratios of root mean squares: one learning rate does not fit gains that differ tenfold (docs/method.md)
DIFFERENT_SCALE = 10.0
#: share of the largest value that counts as being as large
NEARLY = 0.95


def describe_findings(stages: Sequence[Stage]) -> list[str]:
    """What stands out, one or several sentences each; one sentence if nothing does. Positions count from 0."""
    checks: Sequence[Callable[[Sequence[Stage]], Iterable[str]]] = (
        _not_finite,
        _dominant_dimensions,
        _large_positions,
        _growth,
        _alike_tokens,
        _sinks,
        _uniform_attention,
        _gain_scales,
    )
    found = [sentence for check in checks for sentence in check(stages)]
    return found or ["Nothing stands out: no number passes the thresholds of `icecore inspect`."]


def _not_finite(stages: Sequence[Stage]) -> Iterable[str]:
    shown = [stage for stage in stages if stage.hidden.not_finite > 0]
    if shown:
        worst = max(shown, key=lambda stage: stage.hidden.not_finite)
        yield (
            f"Values are not finite {_places(shown)}: in up to {percent(worst.hidden.not_finite, digits=0)} of the "
            "tokens. The other numbers leave these tokens out."
        )


def _dominant_dimensions(stages: Sequence[Stage]) -> Iterable[str]:
    dominated = {stage.name: stage.hidden.own_share_by_position > DOMINANT_SHARE for stage in stages}
    shown = [stage for stage in stages if dominated[stage.name].any()]
    if not shown:
        return
    # of stages with equal counts, the one with the largest share
    most = max(shown, key=lambda stage: (int(dominated[stage.name].sum()), stage.hidden.top_share))
    positions = dominated[most.name].nonzero().flatten().tolist()
    only = f" (position {positions[0]})" if len(positions) == 1 else ""
    text = (
        f"One dimension holds more than half of a token's squared norm at {len(positions)} of "
        f"{pluralize(stages[0].length, 'position')}{only} {_at(most)}"
    )
    text += f", and at some positions {_places(shown)}." if len(shown) > 1 else "."
    if most.hidden.top_share > DOMINANT_SHARE:
        share = f"{percent(most.hidden.top_share, digits=0)} on average over tokens"
        text += f" {_at(most).capitalize()}, dimension {most.hidden.top_dimension} holds {share}."
    yield text
    massive = [stage for stage in shown if stage.hidden.peak_ratio >= MASSIVE_RATIO]
    if massive:
        top = max(massive, key=lambda stage: stage.hidden.peak_ratio)
        yield (
            f"The largest value is up to {top.hidden.peak_ratio:,.0f} times the median magnitude {_places(massive)}: "
            f"massive activations, which are at least {MASSIVE_RATIO:,.0f} times the median (Sun et al. 2024)."
        )


def _large_positions(stages: Sequence[Stage]) -> Iterable[str]:
    ratios = {stage.name: _position_ratio(stage) for stage in stages}
    shown = [stage for stage in stages if ratios[stage.name] >= DIFFERENT_SCALE]
    if shown:
        most = max(shown, key=lambda stage: ratios[stage.name])
        yield (
            f"Some positions are much larger than others {_places(shown)}. {_at(most).capitalize()}, position "
            f"{most.hidden.extreme_position(largest=True)} is the largest, {ratios[most.name]:.0f} times the median "
            "position."
        )


def _position_ratio(stage: Stage) -> float:
    """The largest root mean square of a position, relative to that of the median position."""
    rms = stage.hidden.rms_by_position
    median = float(rms.nanmedian())
    return float(rms[stage.hidden.extreme_position(largest=True)]) / median if median > 0 else 0.0


def _growth(stages: Sequence[Stage]) -> Iterable[str]:
    first = next(place for place, stage in enumerate(stages) if stage.name.startswith("layer"))
    start, layers = stages[first - 1], [stage for stage in stages[first:] if stage.name != LAST_NORM]
    largest = max((stage.hidden.rms for stage in layers if not math.isnan(stage.hidden.rms)), default=0.0)
    # where they have grown, not which of several equal layers is the largest by a hair
    most = next((stage for stage in layers if stage.hidden.rms >= NEARLY * largest), start)
    if start.hidden.rms > 0 and most.hidden.rms / start.hidden.rms >= DIFFERENT_SCALE:
        yield (
            f"Hidden states grow from a root mean square of {number(start.hidden.rms)} {_at(start)} to "
            f"{number(most.hidden.rms)} {_at(most)}, {most.hidden.rms / start.hidden.rms:,.0f} times."
        )


def _alike_tokens(stages: Sequence[Stage]) -> Iterable[str]:
    shown = [stage for stage in stages if stage.hidden.cosine >= ALIKE_COSINE]
    if not shown:
        return
    most = max(shown, key=lambda stage: stage.hidden.cosine)
    at_input = stages[0].hidden.cosine
    compared = "" if most.name == INPUT_STAGE else f", and {at_input:.2f} at the input"
    yield f"Tokens look alike {_places(shown)}: their mean cosine is up to {most.hidden.cosine:.2f}{compared}."


def _sinks(stages: Sequence[Stage]) -> Iterable[str]:
    heads = {stage.name: stage.attention.sink_heads for stage in stages if stage.attention}
    shown = [stage for stage in stages if heads.get(stage.name, 0) >= MANY_HEADS]
    if not shown:
        return
    most = max(shown, key=lambda stage: (heads[stage.name], stage.attention.first if stage.attention else 0.0))
    assert most.attention is not None
    uniform = most.attention.uniform_first
    bound = max(SINK_WEIGHT, SINK_TIMES_UNIFORM * uniform)
    yield (
        f"The first position is an attention sink {_places(shown, 'in')}: at least half of the heads give it more "
        f"than {percent(bound, digits=0)} of their attention (Gu et al. 2025). {_at(most, 'in').capitalize()} it gets "
        f"{percent(most.attention.first, digits=0)} of all attention, and would get {percent(uniform)} "
        "if attention were uniform."
    )


def _uniform_attention(stages: Sequence[Stage]) -> Iterable[str]:
    shown = [s for s in stages if s.attention is not None and s.attention.entropy >= UNIFORM_ENTROPY]
    if shown:
        lowest = min(stage.attention.entropy for stage in shown if stage.attention is not None)
        yield (
            f"Attention is almost uniform {_places(shown, 'in')}: its entropy is at least {percent(lowest)} of the "
            "largest possible one, so each head takes about the mean of all positions that it sees."
        )


def _gain_scales(stages: Sequence[Stage]) -> Iterable[str]:
    norms = [(stage, place, norm) for stage in stages for place, norm in enumerate(stage.norms, 1)]
    if not norms:
        return
    small, large = (choose(norms, key=lambda entry: entry[2].gain) for choose in (min, max))
    if large[2].gain >= DIFFERENT_SCALE * small[2].gain:
        times = f", {large[2].gain / small[2].gain:.0f} times" if small[2].gain > 0 else ""
        yield (
            f"Norm gains lie on different scales: a root mean square of {number(small[2].gain)} in "
            f"{_norm_place(*small[:2])} and of {number(large[2].gain)} in {_norm_place(*large[:2])}{times}."
        )


def _norm_place(stage: Stage, place: int) -> str:
    return f"norm {place} of {stage.name}" if stage.name.startswith("layer") else f"the {stage.name}"


def _at(stage: Stage, relation: str = "after") -> str:
    """Where a stage is: "at the input", "after layer 3" or "in layer 3", "after the last norm"."""
    if stage.name == INPUT_STAGE:
        return "at the input"
    return f"{relation} {stage.name}" if stage.name.startswith("layer") else f"after the {stage.name}"


def _places(stages: Sequence[Stage], relation: str = "after") -> str:
    """Where stages are, layers in ranges: "at the input and after layers 3 to 5 and 7"."""
    parts = [_at(stage) for stage in stages if not stage.name.startswith("layer")]
    numbers = [int(stage.name.removeprefix("layer ")) for stage in stages if stage.name.startswith("layer")]
    if numbers:
        ranges: list[list[int]] = []
        for each in numbers:
            if ranges and each == ranges[-1][-1] + 1:
                ranges[-1][1:] = [each]
            else:
                ranges.append([each])
        texts = [" to ".join(map(str, ends)) for ends in ranges]
        parts.append(f"{relation} layer{'s' * (len(numbers) > 1)} {_joined(texts)}")
    return _joined(parts)


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def number(value: float) -> str:
    """A number in at most six letters: two or three digits, "-" if it is not finite.

    >>> [number(value) for value in (0.0, 0.0412, 1.8, 97.04, 12345.0, 2.4e-5, 7e6, float("nan"))]
    ['0', '0.041', '1.80', '97.0', '12,345', '2e-05', '7e+06', '-']
    """
    size = abs(value)
    if size == 0:
        return "0"
    if not size < float("inf"):
        return "-"
    if size >= 1e5 or 0 < size < 1e-3:
        return f"{value:.0e}"
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.0995 else 3
    return f"{value:,.{digits}f}"
