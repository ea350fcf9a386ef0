"""Running scenarios on this machine and keeping what came of them; `sim` does its I/O here."""
