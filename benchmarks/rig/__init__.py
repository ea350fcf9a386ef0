"""What the benchmarks, the demo and the namespace tests are run in; not part of what is installed."""
