"""Rules that every run is held to: safety (nothing wrong ever happens), liveness (all that can finish do)."""
