"""``python -m tensoradapt.cli`` is the command ``tensoradapt``."""

from .app import main

main()
