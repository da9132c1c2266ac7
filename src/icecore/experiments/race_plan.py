"""Which packs of a request race, and which runs that fell behind in an earlier race need no training.

A race must leave a learning rate with every seed. So a pack races only if each of its rates has all requested seeds in
it, and a run that fell behind is done only for a request that repeats its race.
"""

from collections.abc import Iterable, Mapping, Sequence

from icecore.core.config import SINGLE_ROLES, RunConfig
from icecore.core.text import pluralize
from icecore.training.checkpoint import RunFolder
from icecore.training.racing import has_rung
from icecore.training.run_summary import BEHIND, RunSummary


def can_race(pack: Sequence[RunConfig], requested: Iterable[RunConfig]) -> bool:
    """Whether a pack has several learning rates, each with every seed that is requested of its sweep."""
    seeds = {config.seed for config in requested if config.sweep_key() == pack[0].sweep_key()}
    by_rate: dict[float, set[int]] = {}
    for config in pack:
        by_rate.setdefault(config.lr, set()).add(config.seed)
    return len(by_rate) > 1 and all(of_rate == seeds for of_rate in by_rate.values())


def repeats_race(race: Iterable[str], requested: Iterable[RunConfig]) -> bool:
    """Whether a request contains all runs of a race, given by id, and no other seeds of that sweep."""
    by_id = {config.run_id: config for config in requested}
    ids = set(race)
    if not ids or not ids <= by_id.keys():
        return False
    seeds, key = {by_id[run_id].seed for run_id in ids}, by_id[next(iter(ids))].sweep_key()
    return seeds == {config.seed for config in by_id.values() if config.sweep_key() == key}


def done_for(summaries: Mapping[str, RunSummary], requested: Sequence[RunConfig], race: bool) -> dict[str, RunSummary]:
    """The summaries, by run id, of requested runs that need no training; `race` says whether the request races."""
    known = {config.run_id: summaries[config.run_id] for config in requested if config.run_id in summaries}
    return {
        run_id: summary
        for run_id, summary in known.items()
        if summary.status != BEHIND or (race and repeats_race(summary.race, requested))
    }


def start_over_after_race(folders: Iterable[RunFolder], requested: Sequence[RunConfig], race: bool) -> set[str]:
    """Delete what runs have that fell behind in a race which the request does not repeat. Returns their ids."""
    restarted: set[str] = set()
    for folder in folders:
        ids = folder.race()
        if ids and not (race and repeats_race(ids, requested)):
            folder.reset()
            restarted.add(folder.config.run_id)
    return restarted


def why_not_raced(pack: Sequence[RunConfig], requested: Sequence[RunConfig]) -> str | None:
    """A sentence for a person who asked for a race that `pack` cannot have; None if it has one, or has no rivals."""
    config = pack[0]
    rates = {each.lr for each in requested if each.sweep_key() == config.sweep_key()}
    if len(rates) < 2:
        return None
    if SINGLE_ROLES & set(config.train_roles):
        return (
            "The learning rates do not race, because runs that train weights of the body itself cannot share a pack. "
            "Each run is trained to its end."
        )
    if not can_race(pack, requested):
        return (
            f"A pack of {pluralize(len(pack), 'run')} does not race, because a race needs at least two learning rates "
            "with all seeds in one pack. Other runs of this sweep are finished or begun already, or do not fit into "
            "memory together. Each run of this pack is trained to its end."
        )
    if not has_rung(config, len({each.lr for each in pack})):
        return (
            f"The race stops no learning rate, because no validation falls between a decision and the last step. Lower "
            f"--eval-every (now {config.eval_every:,}; the runs have {pluralize(config.steps, 'step')})."
        )
    return None
