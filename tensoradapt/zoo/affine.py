"""Updates of weight and bias together: GLoRA in all its forms, and the bias alone."""

from __future__ import annotations

from ..algebra.builders import einsum, reshape, scale_rows
from ..algebra.expression import Expr
from ..algebra.leaves import ones, parameter
from ..algebra.nodes import Base
from ..algebra.starts import kaiming_uniform, zeros
from ..structure import Update, method
from .limits import check_choice, check_rank, scale


@method(paper="GLoRA: Chavan et al. 2023, arXiv:2306.07967")
def glora(
    w: Base,
    *,
    rank: int = 8,
    config_A_B: str = "lora",
    config_C: str = "lora",
    config_D_E: str = "constant",
) -> Update:
    """ΔW = W0 ⊙ A + B,  Δb = b0 ⊙ D + E + W0 C;  2r(out + in) + r(in + 1) + 2 parameters.

    Parameters
    ----------
    rank : int
        r of the products.
    config_A_B : {"lora", "vector", "constant", "none"}
        A and B: each a product ``(out, r) (r, in)``, a column that stands in every column, one
        number everywhere, or nothing.
    config_C : {"lora", "vector", "none"}
        C: a product ``(in, r) (r, 1)``, a vector of ``in``, or nothing.
    config_D_E : {"vector", "constant", "none"}
        D and E: each a vector of ``out``, one number, or nothing.

    Notes
    -----
    Rank ΔW ≤ r rank(W0) + r. Start: the left factors, the vectors and the numbers are zero, the
    right factors Kaiming. No α. PEFT multiplies A elementwise; LyCORIS' own GLoRA is
    ``glora_lycoris``. The bias part needs a layer with a bias. A convolution is flattened.
    """
    check_rank("glora", rank, w)
    check_choice("glora", "config_A_B", config_A_B, ("lora", "vector", "constant", "none"))
    check_choice("glora", "config_C", config_C, ("lora", "vector", "none"))
    check_choice("glora", "config_D_E", config_D_E, ("vector", "constant", "none"))
    out, inp = w.matrix
    matrix = reshape(w, out, inp)
    change, shifts = None, list[Expr]()
    if config_A_B == "lora":
        change = matrix * _product("A", out, inp, rank) + _product("B", out, inp, rank)
    elif config_A_B == "vector":
        column = einsum("o, i -> o i", parameter("B", out, start=zeros()), ones(inp))
        change = scale_rows(parameter("A", out, start=zeros()), matrix) + column
    elif config_A_B == "constant":
        change = _everywhere("A", matrix) + _everywhere("B", ones(out, inp))
    if config_C == "lora":
        shifts.append(reshape(matrix @ _product("C", inp, 1, rank), out))
    elif config_C == "vector":
        shifts.append(matrix @ parameter("C", inp, start=zeros()))
    if config_D_E == "vector":
        shifts.append(w.bias * parameter("D", out, start=zeros()))
        shifts.append(parameter("E", out, start=zeros()))
    elif config_D_E == "constant":
        shifts += [_everywhere("D", w.bias), _everywhere("E", ones(out))]
    bias = None
    for shift in shifts:
        bias = shift if bias is None else bias + shift
    return Update(change and reshape(change, *w.shape), bias)


def _product(name: str, rows: int, columns: int, rank: int) -> Expr:
    left = parameter(f"{name}_d", rows, rank, start=zeros())
    return left @ parameter(f"{name}_u", rank, columns, start=kaiming_uniform())


def _everywhere(name: str, operand: Expr) -> Expr:
    """One trained number times the operand."""
    axes = " ".join(f"a{k}" for k in range(operand.ndim))
    return einsum(f"one, {axes} -> {axes} ", parameter(name, 1, start=zeros()), operand)


@method(paper="GLoRA as in LyCORIS: Yeh et al. 2024, arXiv:2309.14859")
def glora_lycoris(
    w: Base, *, rank: int = 4, alpha: float | None = None, use_rslora: bool = False
) -> Expr:
    """ΔW = s (W0 A1 A2 + B1 B2),  s = α/r;  rank ≤ 2r;  r(out + 3 in) parameters.

    Parameters
    ----------
    rank : int
        r; A1 is ``(in, r)``, A2 ``(r, in)``, B1 ``(out, r)`` and B2 ``(r, in·kernel)``.
    alpha : float, optional
        α; the scale is 1 without it.
    use_rslora : bool
        Divide α by √r instead of r.

    Notes
    -----
    A matrix product where GLoRA in PEFT has an elementwise one. Start: A2 = B2 = 0, A1 and B1
    Kaiming. In a convolution A1 A2 mixes the input channels alike at every place of the kernel.
    """
    check_rank("glora_lycoris", rank, w)
    out, inp = w.shape[0], w.matrix[1]
    channels = w.shape[1] if w.ndim > 1 else 1
    A1 = parameter("A1", channels, rank, start=kaiming_uniform())
    A2 = parameter("A2", rank, channels, start=zeros())
    B1 = parameter("B1", out, rank, start=kaiming_uniform())
    B2 = parameter("B2", rank, inp, start=zeros())
    k = " ".join(f"k{axis}" for axis in range(w.ndim - 2))
    weight = reshape(w, out, channels, *w.shape[2:])
    before = einsum(f"o c {k}, c r, r i -> o i {k}", weight, A1, A2)
    both = reshape(before, *w.shape) + reshape(B1 @ B2, *w.shape)
    return scale("glora_lycoris", alpha, rank, use_rslora) * both


@method(paper="BEFT: arXiv:2509.15974")
def beft(w: Base) -> Update:
    """Δb = v,  the weight stays;  out parameters.

    Notes
    -----
    Start: v = 0. The layer needs a bias. Which biases of a model are worth it is the paper's
    subject, and the caller's choice.
    """
    return Update(bias=parameter("v", w.shape[0], start=zeros()))
