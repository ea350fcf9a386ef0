"""What is simulated: fleets, links, releases, orders and faults, as plain values (`model`)."""
