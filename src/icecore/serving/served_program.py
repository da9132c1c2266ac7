"""A program that is ready to answer, and the body that it runs on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icecore import user_data
from icecore.autofit.predict import read_encoder
from icecore.inference.engine import Engine, LoadedProgram
from icecore.model.program import Program
from icecore.serving.batcher import Batcher
from icecore.serving.forecast_codec import ForecastCodec
from icecore.serving.own_data_codec import OwnDataCodec
from icecore.serving.program_codec import ProgramCodec
from icecore.serving.token_codec import TokenCodec
from icecore.sharing.program_header import ProgramHeader

#: hexadecimal digits of a version
VERSION_DIGITS = 12


@dataclass(frozen=True, eq=False)
class ServedBody:
    """A body with its engine and the queue of its rows. All programs that were trained on it share them."""

    name: str
    weights: str
    precision: str
    engine: Engine
    batcher: Batcher


@dataclass(frozen=True, eq=False)
class ServedProgram:
    """A program of one version. A request keeps the version that it found, so no answer mixes two.

    version  first digits of the sha256 of the file
    size     bytes of the file
    results  metrics, controls and verdict, for the card
    """

    name: str
    version: str
    size: int
    body: ServedBody
    loaded: LoadedProgram
    codec: ProgramCodec
    fingerprint: str
    results: Mapping[str, Any]

    @classmethod
    def make(cls, name: str, raw: bytes, program: Program, body: ServedBody) -> "ServedProgram":
        """Load a program onto a body. Raises WeightsError with both fingerprints for another body, DataError."""
        version = hashlib.sha256(raw).hexdigest()[:VERSION_DIGITS]
        codec = _codec(name, program)
        loaded = body.engine.load(program, name)
        header = ProgramHeader.read(program)
        metrics = {str(k): v for k, v in program.metrics.items() if isinstance(v, int | float | str)}
        results = {"metrics": metrics, "verdict": header.verdict, "metric": header.metric_name}
        return cls(name, version, len(raw), body, loaded, codec, program.fingerprint, results)

    def card(self) -> dict[str, Any]:
        """What people and clients must know to use the program."""
        described = self.codec.describe()
        metric = self.results["metric"] or described["metric"]
        return {
            "name": self.name,
            "version": self.version,
            "bytes": self.size,
            "body": {"name": self.body.name, "weights": self.body.weights, "precision": self.body.precision},
            "fingerprint": self.fingerprint,
            "media_types": ["application/json", *self.codec.media_types],
            **described,
            "metric": metric,
            "metrics": self.results["metrics"],
            "verdict": self.results["verdict"],
        }


def _codec(name: str, program: Program) -> ProgramCodec:
    if "encoder" in program.extra:
        encoder: user_data.DataEncoder = read_encoder(program, Path(name))
        return (OwnDataCodec if encoder.forecast is None else ForecastCodec)(encoder, program)
    header = ProgramHeader.read(program)
    return TokenCodec(program, next(iter(header.classes.values()), ()))
