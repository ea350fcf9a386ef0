"""Reports of simulated runs and of plans: an HTML page that stands alone, and PNGs of its charts.

`write(outcomes, directory)` leaves `report.html`. Charts are Altair's, the page carries Vega inside it, and
the PNGs are drawn by the same version of it; nothing is loaded from anywhere. Not for running anything.
"""

from sim.report.kept import kept_subject, read
from sim.report.subjects import Subject, subject
from sim.report.write import Written, compose, write

__all__ = ["Subject", "Written", "compose", "kept_subject", "read", "subject", "write"]
