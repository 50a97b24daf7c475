"""Few coefficients in a transformed basis: Fourier, wavelets, circulant blocks."""

from __future__ import annotations

from math import sqrt

from ..algebra.builders import einsum, linear_transform, place, reshape, take, window
from ..algebra.expression import Expr
from ..algebra.indexing import IndexMap, circulant_rows_map, torch_choice_map
from ..algebra.leaves import parameter
from ..algebra.nodes import Base
from ..algebra.starts import normal, uniform, zeros
from ..errors import StructureError
from ..structure import method
from .limits import (
    check_choice,
    check_count,
    check_number,
    check_parts,
    check_seed,
    given_positions,
)


def locations(
    method: str, w: Base, count: int, seed: int, given: tuple[int, ...] | None
) -> IndexMap:
    """``count`` different flat positions of the matrix of ``w``, drawn as PEFT does or given."""
    size = w.matrix[0] * w.matrix[1]
    if given is None:
        check_count(method, "n_frequency", count)
        check_seed(method, "random_loc_seed", seed)
        if count > size:
            raise StructureError(
                f"n_frequency={count} was asked for.",
                f"The weight has {w.matrix[0]} × {w.matrix[1]} = {size} entries.",
                f"Use {method}(n_frequency={size}) or less.",
            )
        return torch_choice_map(count, size, seed)
    return given_positions(method, given, size)


@method(paper="FourierFT: Gao et al. 2024, arXiv:2405.03003")
def fourierft(
    w: Base,
    *,
    n_frequency: int = 1000,
    scaling: float = 150.0,
    random_loc_seed: int = 777,
    indices: tuple[int, ...] | None = None,
    start: str = "normal",
) -> Expr:
    """ΔW = s Re IFFT2(S),  S with n entries that train;  rank ≤ 2n;  n parameters.

    Parameters
    ----------
    n_frequency : int
        n. ΔW[o, i] = s/(out·in) Σ_j c_j cos 2π(o p_j/out + i q_j/in).
    scaling : float
        s.
    random_loc_seed : int
        Draws the positions (p_j, q_j): the first n of ``torch.randperm(out·in)``, as PEFT.
    indices : tuple of int, optional
        The positions p·in + q themselves, instead of the seed and of n.
    start : {"normal", "zeros"}
        Of the coefficients c: N(0, 1), as PEFT by default, or zero.

    Notes
    -----
    **ΔW is not zero at the start** with ``start="normal"``. A convolution is flattened; PEFT has
    linear layers only; torch.fft.ifft2, which it calls, gives about zero at 2048 × 2048 on a CPU
    with several threads.
    """
    check_choice("fourierft", "start", start, ("normal", "zeros"))
    check_number("fourierft", "scaling", scaling, 150.0)
    at = locations("fourierft", w, n_frequency, random_loc_seed, indices)
    c = parameter("c", *at.shape, start=normal() if start == "normal" else zeros())
    spectrum = place(c, *w.matrix, index=at)
    both = [spectrum, spectrum]
    for axis in (0, 1):
        both = [
            linear_transform(part, f"inverse_fourier_{kind}", axis)
            for part, kind in zip(both, ("cos", "sin"), strict=True)
        ]
    return scaling * reshape(both[0] - both[1], *w.shape)


@method(paper="WaveFT: Bilican et al. 2025, arXiv:2505.12532")
def waveft(
    w: Base,
    *,
    n_frequency: int = 2592,
    scaling: float = 25.0,
    random_loc_seed: int = 777,
    indices: tuple[int, ...] | None = None,
    wavelet_family: str = "db1",
    use_idwt: bool = True,
    start: str = "zeros",
) -> Expr:
    """ΔW = s IDWT(S),  S with n entries that train;  rank ≤ n;  n parameters.

    Parameters
    ----------
    n_frequency : int
        n.
    scaling : float
        s.
    random_loc_seed : int
        Draws the positions: the first n of ``torch.randperm(out·in)``, as PEFT.
    indices : tuple of int, optional
        The positions p·in + q themselves, instead of the seed and of n.
    wavelet_family : {"db1"}
        Haar's, one level: S in quarters A, H over V, D gives ΔW[2a + p, 2b + q] =
        s/2 (A + (-1)^p H + (-1)^q V + (-1)^(p+q) D)[a, b]. Of PEFT's families only this one is
        here, which is its default.
    use_idwt : bool
        Without it ΔW = s S, a sparse update.
    start : {"zeros", "normal"}
        Of the coefficients c: zero, or N(0, 0.01²).

    Notes
    -----
    A side of odd size is padded to an even one and ΔW cropped from it. Each coefficient makes a
    2 × 2 block of rank one. A convolution is flattened; PEFT has linear layers only.
    """
    check_choice("waveft", "start", start, ("zeros", "normal"))
    check_choice("waveft", "wavelet_family", wavelet_family, ("db1",))
    check_number("waveft", "scaling", scaling, 25.0)
    at = locations("waveft", w, n_frequency, random_loc_seed, indices)
    c = parameter("c", *at.shape, start=zeros() if start == "zeros" else normal(0.01))
    out, inp = w.matrix
    made = place(c, out, inp, index=at)
    if use_idwt:
        rows, columns = out + out % 2, inp + inp % 2
        quarters = reshape(window(made, rows, columns), 2, rows // 2, 2, columns // 2)
        for axis in (0, 2):
            quarters = linear_transform(quarters, "walsh_hadamard", axis)
        made = window(einsum("q a p b -> (a p) (b q)", quarters), out, inp)
    return scaling * reshape(made, *w.shape)


C3A_STARTS = ("xavier_uniform", "kaiming_uniform", "gaussian", "zeros")


@method(paper="C3A: Chen et al. 2024, arXiv:2407.19342")
def c3a(w: Base, *, block_size: int = 256, start: str = "xavier_uniform") -> Expr:
    """ΔW = circulant blocks of b × b by their first rows, over in;  any rank;  out·in/b parameters.

    Parameters
    ----------
    block_size : int
        b, a divisor of ``out`` and of ``in``: ΔW[m b + p, n b + q] = w[m, n, (q - p) mod b]/in.
    start : {"xavier_uniform", "kaiming_uniform", "gaussian", "zeros"}
        Of w, as PEFT: Uniform(±√(6/(out + in))), Uniform(±1/√in), N(0, 1) or zero.

    Notes
    -----
    **ΔW is not zero at the start** unless it starts at "zeros". No α; 1/in is fixed. A
    convolution is flattened; PEFT has linear layers only, takes a wrong gradient of its input,
    and chains two active adapters instead of adding them.
    """
    out, inp = w.matrix
    b = block_size
    check_choice("c3a", "start", start, C3A_STARTS)
    check_parts("c3a", "block_size", b, {"out": out, "in": inp})
    begin = {
        "xavier_uniform": uniform(-sqrt(6 / (out + inp)), sqrt(6 / (out + inp))),
        "kaiming_uniform": uniform(-1 / sqrt(inp), 1 / sqrt(inp)),
        "gaussian": normal(),
        "zeros": zeros(),
    }[start]
    kernel = parameter("w", out // b, inp // b, b, start=begin)
    blocks = take(kernel, circulant_rows_map(b), axis=2)
    return reshape(einsum("m n p q -> (m p) (n q)", blocks) / inp, *w.shape)
