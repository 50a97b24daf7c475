"""The main job: one pretrained model, many structures, one table.

``run`` trains a small vision transformer on the handwritten digits 0 to 4, freezes it, adapts it
to the digits 5 to 9 with every structure of ``candidates.py``, and writes a table, a JSON
document, two plots and the adapters themselves. The data are real and come with scikit-learn.

It is loaded when it is first asked for, so that the command line starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .main import run as run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        return import_module(".main", __name__).run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
