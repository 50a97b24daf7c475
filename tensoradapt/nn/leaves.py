"""Containers of leaf tensors: trained leaves as parameters, frozen ones as buffers.

A leaf's name has dots (``within.B``), an attribute's name has none; the two are joined by the
escape of JSON pointers (RFC 6901): ``~`` becomes ``~0``, ``/`` becomes ``~1``, and only then ``.``
becomes ``/``. A name that every module already uses is led by ``~2``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

RESERVED = frozenset(dir(nn.Module()))
"""The attribute names of every module: a leaf of such a name is stored under ``~2name``."""


def attribute_of(leaf: str) -> str:
    """The attribute that stores a leaf.

    Examples
    --------
    >>> attribute_of("within.B"), attribute_of("half")
    ('within/B', '~2half')
    """
    escaped = leaf.replace("~", "~0").replace("/", "~1").replace(".", "/")
    return f"~2{escaped}" if escaped in RESERVED else escaped


def leaf_of(attribute: str) -> str:
    """The leaf that an attribute stores: the inverse of ``attribute_of``.

    Examples
    --------
    >>> leaf_of("within/B")
    'within.B'
    """
    escaped = attribute.removeprefix("~2")
    return escaped.replace("/", ".").replace("~1", "/").replace("~0", "~")


class Leaves(nn.Module):
    """The leaf tensors of one adapter, at one site or shared by all its sites.

    Parameters
    ----------
    trained, frozen : mapping of str to Tensor
        The values by leaf name; the frozen ones become buffers.
    """

    def __init__(self, trained: Mapping[str, Tensor], frozen: Mapping[str, Tensor]) -> None:
        nn.Module.__init__(self)
        for name, value in trained.items():
            self.register_parameter(attribute_of(name), nn.Parameter(value))
        for name, value in frozen.items():
            self.register_buffer(attribute_of(name), value)

    def tensors(self) -> dict[str, Tensor]:
        """Every leaf by name, trained ones first."""
        stored = [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]
        return {leaf_of(attribute): tensor for attribute, tensor in stored}

    def extra_repr(self) -> str:
        return ", ".join(f"{name} {tuple(t.shape)}" for name, t in self.tensors().items())


class SharedLeaves(nn.Module):
    """The leaves that several sites share, stored once: one ``Leaves`` per adapter's name."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.adapters = nn.ModuleDict()
