"""Ready scenarios, one TOML file each, that are part of the package. `bench-…` have pinned expectations.

Their figures are of the kind that planners meet; each file says where they are from.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from p2p.errors import OperatorError
from sim.scenario.model import Scenario
from sim.scenario.reading import parse_scenario

__all__ = ["load", "names", "text"]

_SUFFIX = ".toml"


def names() -> list[str]:
    """All of them, in the order of the alphabet."""
    found = (item.name for item in files(__name__).iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX))


def text(name: str) -> str:
    """The document as it was written, comments included; raises `OperatorError` for an unknown name."""
    if name not in names():
        raise OperatorError(
            f"there is no ready scenario {name!r}",
            next_step="`slipstream sim list` names them; a scenario of your own is named by its file",
        )
    return files(__name__).joinpath(name + _SUFFIX).read_text(encoding="utf-8")


def load(name: str) -> Scenario:
    """A ready scenario."""
    return parse_scenario(text(name).encode(), source=name + _SUFFIX, directory=Path())
