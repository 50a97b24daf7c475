"""What adapted layers cost: ``python -m benchmarks.step_time``, or ``make bench``."""

import os

# Torch's profiler reads this when it is loaded, and else writes lines of its own for every use.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
