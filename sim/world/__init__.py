"""The virtual world: the real code of `p2p` in virtual time, over virtual links and disks.

`run` takes a scenario and a seed. Layers, from top to bottom: `run` makes a `World` of sites (`fleet`),
devices (`device`, `agent`, `hostile`), links (`uplink`, `network`) and what happens to them (`orders`,
`faults`, `vehicles`); `flows` shares rates; `kernel` is time.
"""

from sim.world.observer import Observer
from sim.world.run import Seams, World, run
from sim.world.synthetic import Material, material_of_manifest

__all__ = ["Material", "Observer", "Seams", "World", "material_of_manifest", "run"]
