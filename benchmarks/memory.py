"""Memory of one call: the peak by the allocator's own events, and what autograd keeps.

Both are taken in a pass of their own: watching costs time. The events are those of
``torch.profiler``, so a block that lives only inside an operator counts too. A block allocated
before the pass has no address here, and its release is left out.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from .harness import Call


def peak_bytes(call: Call) -> int:
    """The largest sum of the blocks that one call holds at a time, its results included."""
    call()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        kept = call()
    del kept
    return max_of_running_sum(_events(watched))


def _events(watched: profile) -> list[tuple[int, int]]:
    """``(address, bytes)`` of every allocation (bytes > 0) and release (bytes < 0), in order."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    found = [event for event in events if event.get("name") == "[memory]"]
    found.sort(key=lambda event: event["ts"])
    return [(event["args"]["Addr"], event["args"]["Bytes"]) for event in found]


def max_of_running_sum(events: Iterable[tuple[int, int]]) -> int:
    """The peak of a list of allocations and releases.

    >>> max_of_running_sum([(1, 8), (9, -100), (2, 4), (1, -8), (3, 6)])
    12
    """
    held: dict[int, int] = {}
    now = peak = 0
    for address, size in events:
        if size > 0:
            held[address] = size
            now += size
            peak = max(peak, now)
        else:
            now -= held.pop(address, 0)
    return peak


def saved_bytes(call: Call, excluded: Iterable[Tensor]) -> int:
    """The bytes that a call keeps for its backward pass.

    A storage counts once and whole, as it is kept whole; those of the ``excluded`` tensors (x,
    parameters, buffers) do not count. Blind to tensors that a Function keeps as attributes.
    """
    known = {_storage(tensor) for tensor in excluded}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = call()
    del kept
    return sum(size for address, size in found.items() if address not in known)


def _storage(tensor: Tensor) -> int:
    return torch.Tensor.untyped_storage(tensor).data_ptr()
