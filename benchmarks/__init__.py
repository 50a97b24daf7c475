"""What adapted layers cost: ``python -m benchmarks.step_time``, or ``make bench``."""
