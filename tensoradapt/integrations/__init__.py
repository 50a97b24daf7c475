"""Files of other libraries: read and written without importing those libraries.

``integrations.peft`` reads and writes adapter folders of PEFT, ``integrations.lycoris`` reads
single files of LyCORIS and kohya, ``integrations.exporting`` turns any update into a LoRA, and
``integrations.inspecting`` says what a file holds. ``tensoradapt.nn.load`` finds both readers
through the entry points ``tensoradapt.readers``.

Each is loaded when it is first asked for, so that the command line starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import exporting as exporting
    from . import inspecting as inspecting
    from . import lycoris as lycoris
    from . import peft as peft

__all__ = ["exporting", "inspecting", "lycoris", "peft"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
