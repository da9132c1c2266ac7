"""The schedule: step by step, or by the clock, with the same positions for validations and races."""

from dataclasses import replace

import pytest

from icecore.core.config import RunConfig
from icecore.training.racing import RUNGS, rung_at
from icecore.training.schedule import Schedule

CONFIG = RunConfig(task="bit-xor", steps=100, batch_size=8, lr=1e-3, eval_every=5)


def test_without_a_time_box_a_position_is_a_step() -> None:
    schedule = Schedule(CONFIG)
    validated = []
    while not schedule.is_over:
        schedule.advance(elapsed=1e9)
        validated += [schedule.position] * schedule.is_validating
    assert validated == list(range(5, 101, 5))


@pytest.mark.parametrize("seconds_per_step", [0.01, 0.5, 0.9, 2.0, 7.0, 200.0])
def test_a_time_box_ends_the_schedule_in_time(seconds_per_step: float) -> None:
    """60 seconds and 100 steps: a fast machine makes all steps, a slow one as many as fit."""
    config, elapsed, steps, positions = replace(CONFIG, minutes=1.0), 0.0, 0, [0.0]
    schedule = Schedule(config)
    rungs = []
    while not schedule.is_over:
        elapsed += seconds_per_step
        steps += 1
        schedule.advance(elapsed)
        positions.append(schedule.position)
        if schedule.is_validating and (rung := rung_at(config, schedule.position, schedule.previous)):
            rungs.append(rung)
    assert elapsed < 60 + seconds_per_step
    assert steps == min(100, -(-60 // seconds_per_step))
    assert positions == sorted(positions)
    assert positions[-1] == 100
    # the learning rate is low at the end, whatever the speed
    if steps > 20:
        assert config.lr_at(positions[-2]) < 0.03 * config.lr
        assert rungs == list(RUNGS)


def test_a_machine_that_becomes_busy_still_ends_in_time() -> None:
    schedule, elapsed, steps = Schedule(replace(CONFIG, steps=1000, minutes=1.0)), 0.0, 0
    while not schedule.is_over:
        elapsed += 0.06 if elapsed < 30 else 0.6
        steps += 1
        schedule.advance(elapsed)
    assert elapsed < 61
    assert 500 < steps < 600
