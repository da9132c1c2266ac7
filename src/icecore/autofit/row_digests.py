"""Digests of a sample of training rows, kept with a program, so that scoring these rows again can say so."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from icecore.core.text import percent
from icecore.model.program import Program
from icecore.user_data.notes import Note

#: training rows of which digests are kept: enough to see a tenth of them again almost surely
SAMPLED_ROWS = 200
#: hexadecimal digits of a digest
DIGEST_DIGITS = 12


class ScoredRows(Protocol):
    """Encoded rows (N, ...), their lengths (N,), and targets if the data have them."""

    @property
    def inputs(self) -> Tensor: ...
    @property
    def lengths(self) -> Tensor | None: ...
    @property
    def targets(self) -> Tensor | None: ...


def sample_digests(inputs: Tensor, lengths: Tensor | None) -> list[str]:
    """Digests of the first encoded training rows (N, ...), which are in random order."""
    return list(_digests(inputs[:SAMPLED_ROWS], None if lengths is None else lengths[:SAMPLED_ROWS]))


def share_seen(sample: Sequence[str], inputs: Tensor, lengths: Tensor | None) -> float:
    """The share of the sampled training rows that is among encoded rows (N, ...); 0 without a sample."""
    if not sample:
        return 0.0
    looked_for = set(sample)
    # the digests of all rows together would take more memory than the rows
    seen = {digest for digest in _digests(inputs, lengths) if digest in looked_for}
    return sum(digest in seen for digest in sample) / len(sample)


def notes_on_training_rows(program: Program, rows: ScoredRows) -> list[Note]:
    """A note if rows that are scored were trained on, which flatters the score."""
    sample = program.extra.get("training_rows")
    sample = [digest for digest in sample if isinstance(digest, str)] if isinstance(sample, list) else []
    share = share_seen(sample, rows.inputs, rows.lengths) if rows.targets is not None else 0.0
    text = f"about {percent(share, digits=0)} of the training rows are among these, so the score flatters the program"
    return [("trained on", text)] if share else []


def _digests(inputs: Tensor, lengths: Tensor | None) -> Iterator[str]:
    """A digest of each row, whatever it is padded to."""
    for index, row in enumerate(inputs.cpu().numpy()):
        content = row if lengths is None else row[: int(lengths[index])]
        yield hashlib.sha256(content.tobytes()).hexdigest()[:DIGEST_DIGITS]
