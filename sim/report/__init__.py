"""Reports of simulated runs and of plans: an HTML page that stands alone, and PNGs of its charts.

`write(outcomes, directory)` leaves `report.html`. Charts are Altair's, the page carries Vega inside it, and
the PNGs are drawn by the same version of it; nothing is loaded from anywhere. Not for running anything.
"""

from sim.report.subjects import Expectation, Subject, judge, subject
from sim.report.write import Written, compose, write

__all__ = ["Expectation", "Subject", "Written", "compose", "judge", "subject", "write"]
