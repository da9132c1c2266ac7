"""Random numbers as pure functions of integers, such as the seed of a run, a purpose and a step.

No generator has a state to save: a resumed run draws the same numbers, and so does a run packed with others.
"""

import torch

#: what a stream is for: the integer that follows the seed in the key of `random_stream`
ORDER, AUGMENT, EXAMPLES, SPLIT, INIT, DROPOUT = range(6)


def random_stream(*key: int) -> torch.Generator:
    """A CPU generator that depends on the integers of `key` only, for example (run seed, EXAMPLES, step)."""
    state = 0x9E3779B97F4A7C15
    for part in key:
        # splitmix64, because neighbouring seeds and steps must not give related numbers
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)
