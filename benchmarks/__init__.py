"""Figures and the demo, measured on real processes; `benchmarks/README.md` says how to run them."""
