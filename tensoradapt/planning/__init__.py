"""Plans: which steps to run, in which order, and why; data only, no arrays."""
