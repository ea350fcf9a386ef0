"""The diagram of the install states, drawn from the table that the code runs by.

`python -m p2p.install.diagram` prints `docs/architecture/install.md`; a test keeps the two equal.
"""

from __future__ import annotations

import sys

from p2p.install.machine import TRANSITIONS
from p2p.install.record import State

_INTRODUCTION = """\
# Install states

Generated from `p2p/install/machine.py` by `python -m p2p.install.diagram`; do not edit.

Each arrow is durable before what stands after its slash is done, and all of that may be done twice.
After a crash, a power cut or a reboot `p2p/install/reconcile.py` compares the record with the boot
environment, which decides, and with the slots. Up to `written` the slot that the device runs from is
not touched by anything.

"""


def diagram() -> str:
    """Mermaid source (`stateDiagram-v2`)."""
    lines = ["stateDiagram-v2", f"    [*] --> {_id(State.IDLE)}"]
    lines += [f"    {_id(state)}: {state}" for state in State]
    for (state, event), transition in TRANSITIONS.items():
        effects = f" / {', '.join(transition.effects)}" if transition.effects else ""
        lines.append(f"    {_id(state)} --> {_id(transition.to)}: {event}{effects}")
    return "\n".join(lines) + "\n"


def table() -> str:
    """The same as a Markdown table."""
    rows = ["| state | event | next state | to be done |", "|---|---|---|---|"]
    for (state, event), transition in TRANSITIONS.items():
        rows.append(f"| {state} | {event} | {transition.to} | {', '.join(transition.effects)} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The whole document."""
    return f"{_INTRODUCTION}```mermaid\n{diagram()}```\n\n{table()}"


def _id(state: State) -> str:
    return state.value.replace("-", "_")


if __name__ == "__main__":
    sys.stdout.write(page())
