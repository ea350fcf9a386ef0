"""Vehicles: sites that move by a timetable, their nodes on the network of the site where they stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.scenario.model import Stop
from sim.world.uplink import Uplink

if TYPE_CHECKING:
    from sim.world.run import World
    from sim.world.site import Site


class Timetable:
    """One vehicle's stops. A stop that names a group means the vehicle's own number of it, in turn."""

    def __init__(self, world: World, vehicle: Site, number: int) -> None:
        self._world = world
        self._vehicle = vehicle
        self._number = number

    def begin(self) -> None:
        """Enter all first stops."""
        for stop in self._vehicle.group.timetable:
            self._world.kernel.at(stop.at_s, self._arrive, stop)

    def _arrive(self, stop: Stop) -> None:
        world, vehicle = self._world, self._vehicle
        world.kernel.after(stop.length_s, self._depart, stop)
        if vehicle.group.timetable_every_s > 0:
            world.kernel.after(vehicle.group.timetable_every_s, self._arrive, stop)
        world.kernel.trace(f"{vehicle.name} at {stop.site}")
        host = stop_site(world, stop.site, self._number)
        if host is not None:
            vehicle.host = host
            host.guests.append(vehicle)
        if stop.wan is not None:
            vehicle.uplinks.append(
                uplink := Uplink(
                    vehicle.name, stop.wan, world.kernel, world.flows, world.origin,
                    starts_of_day=world.scenario.starts_of_day, usable=lambda up: world.wan_changed(vehicle),
                )
            )  # fmt: skip
            vehicle.uplink = uplink
            world.wan_changed(vehicle)
        for device in vehicle.devices:
            if device.up:
                vehicle.discover(device)

    def _depart(self, stop: Stop) -> None:
        world, vehicle = self._world, self._vehicle
        world.kernel.trace(f"{vehicle.name} leaves {stop.site}")
        host = vehicle.host
        if host is not None:
            vehicle.host = None
            host.guests.remove(vehicle)
            for device in vehicle.devices:
                vehicle.lose_unreachable(device)
            for device in host.devices:
                host.lose_unreachable(device)
        if stop.wan is not None and vehicle.uplink is not None:
            left, vehicle.uplink = vehicle.uplink, vehicle.own_uplink
            left.break_down()
            left.cut("truncated")
            world.wan_changed(vehicle)


def stop_site(world: World, name: str | None, number: int) -> Site | None:
    """The site that a stop means."""
    if name is None:
        return None
    if name in world.sites:
        return world.sites[name]
    group = [site for site in world.sites.values() if site.group.name == name]
    return group[number % len(group)] if group else None
