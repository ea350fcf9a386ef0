"""The fitted constants of the model, with where they came from. `fitted.json` beside this is written by
`python -m benchmarks.fleet_model --write`; nothing else changes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from p2p.errors import ContentError
from sim.fleet.outcome import ModelError

VERSION = 4
BYTE_TERMS = (
    "payload", "requests", "index", "index rest", "fresh", "fresh together", "rest", "rest together", "alone",
    "devices",
)  # fmt: skip
TIME_TERMS = (
    "bound",
    "second",
    "asked",
    "constant",
    "fresh",
    "delay",
    "pieces",
    "patching",
    "devices",
    "chunks",
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Coefficients by name of the terms that `sim.fleet.model` reckons a site by.

    `down`, `up`: see `site_bytes.terms`; what `sim.fleet.asking` reckons is not in them. `time`: what
    the terms of a site's time count, see `model.site_times`. `metadata`: signed files that every floor
    includes, in bytes.
    """

    down: Mapping[str, float]
    up: Mapping[str, float]
    time: Mapping[str, float]
    metadata: float
    error: ModelError

    def to_json(self) -> dict[str, Any]:
        """A JSON document of them."""
        return {
            "version": VERSION,
            "down": dict(self.down),
            "up": dict(self.up),
            "time": dict(self.time),
            "metadata": self.metadata,
            "error": asdict(self.error),
        }

    @classmethod
    def from_json(cls, document: Any) -> Parameters:
        """What `to_json` made `document` of; raises `ContentError`."""
        try:
            if document["version"] != VERSION:
                raise ContentError(f"fitted constants of version {document['version']!r}")
            return cls(
                {name: float(document["down"][name]) for name in BYTE_TERMS},
                {name: float(document["up"][name]) for name in BYTE_TERMS},
                {name: float(document["time"][name]) for name in TIME_TERMS},
                float(document["metadata"]),
                ModelError.from_json(document["error"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ContentError(f"fitted constants: {error!r}") from error


def fitted() -> Parameters:
    """The constants that this version comes with."""
    text = files("sim.fleet").joinpath("fitted.json").read_text(encoding="utf-8")
    return Parameters.from_json(json.loads(text))
