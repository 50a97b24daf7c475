"""A convolution's update as two small convolutions: ``ΔW[o, i, k] = Σ_r L[o, r] R[r, i, k]``.

Where one leaf carries all of ``out`` and meets the rest of the network in few indices (B of a low
rank product, the output factor of a Tucker or CP tensor), the rest is the kernel R of a
convolution to r channels, and the leaf is one of kernel size 1 after it. Neither forms ΔW.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..algebra.expression import Expr
from ..errors import UnsupportedError
from ..network.form import Factor, Network, NormalForm
from ..network.lower import lower
from .compose import Composer, inputs_of
from .rates import CPU, Rates
from .steps import Program, Writer


@dataclass(frozen=True, slots=True)
class Chain:
    """The program that forms L ``(out, rank)`` and R ``(rank, in, *kernel)``.

    Parameters
    ----------
    program : Program
        Its result is L, its one further value R.
    rank : int
        The channels between the two convolutions.
    shape : tuple of int
        The shape of ΔW.
    """

    program: Program
    rank: int
    shape: tuple[int, ...]

    @property
    def products(self) -> int:
        """Multiplications per output position, ``r (in·kernel + out)``."""
        return self.rank * (prod(self.shape[1:]) + self.shape[0])


def chain(update: Expr, rates: Rates = CPU) -> Chain:
    """Split ΔW behind the leaf that carries ``out``.

    Parameters
    ----------
    update : Expr
        ΔW, of shape ``(out, in, *kernel)``.
    rates : Rates
        Of the device.

    Raises
    ------
    UnsupportedError
        If ΔW is not one network with such a leaf.

    Examples
    --------
    >>> from tensoradapt.algebra.forms import low_rank
    >>> chain(low_rank((64, 32, 3, 3), rank=4)).products
    1408
    """
    form = lower(update)
    if len(form.terms) != 1:
        raise _impossible(f"it is a sum of {len(form.terms)} products")
    network = form.terms[0]
    leaf = _output_leaf(network)
    rest = tuple(factor for factor in network.factors if factor is not leaf)
    bonds = tuple(i for i in leaf.indices if i not in network.output[0])
    rank = prod(network.sizes[i] for i in bonds)
    left = Network((leaf,), (network.output[0], bonds), network.sizes, 1)
    right = Network(rest, (bonds, *network.output[1:]), network.sizes, network.scale)
    forms = [NormalForm(half.shape, (half,)) for half in (left, right)]
    writer = Writer(inputs_of(forms, update.shape, training=False)[1:])
    composer = Composer(writer, 1, rates, training=False)
    return Chain(writer.program(*map(composer.materialize, forms)), rank, update.shape)


def _output_leaf(network: Network) -> Factor:
    """The one factor with the indices of ``out``, which has none of the other axes."""
    out = network.output[0]
    inner = {i for axis in network.output[1:] for i in axis}
    found = [factor for factor in network.factors if set(out) & set(factor.indices)]
    if len(found) != 1 or not out or len(set(out)) < len(out):
        raise _impossible("several factors carry out")
    leaf = found[0]
    bonds = set(leaf.indices) - set(out)
    others = {i for factor in network.factors if factor is not leaf for i in factor.indices}
    if not set(out) <= set(leaf.indices) or bonds & inner or not bonds <= others:
        raise _impossible("out and in lie on one factor")
    if inner & set(out) or not inner <= others:
        raise _impossible("out and in lie on one factor")
    return leaf


def _impossible(reason: str) -> UnsupportedError:
    return UnsupportedError(
        "An update was to be applied as two convolutions.",
        f"It cannot be: {reason}.",
        "Form the update with ta.materialize.",
    )
