"""The zoo: published methods, each a short function from a weight to its update ΔW.

Uses the algebra's builders and ``@method`` only, as a method of your own would. Every
docstring begins with the formula, its scale, its rank and its number of parameters.
"""

from .hadamard import hira, hut, loha
from .kron import kronecker, lokr
from .low_rank import dora, lora, lora_xs, vera
from .nonlinear import sine_lora
from .structured import circulant, ldr, symmetric_toeplitz, toeplitz
from .tensors import cp, tt_lora, tucker

__all__ = [
    "circulant",
    "cp",
    "dora",
    "hira",
    "hut",
    "kronecker",
    "ldr",
    "loha",
    "lokr",
    "lora",
    "lora_xs",
    "sine_lora",
    "symmetric_toeplitz",
    "toeplitz",
    "tt_lora",
    "tucker",
    "vera",
]
