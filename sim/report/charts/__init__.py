"""The charts of a report: outcome values in, `Picture` out. No I/O."""
