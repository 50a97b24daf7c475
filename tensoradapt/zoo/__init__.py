"""The zoo: published methods, each a short function from a weight to its update ΔW.

Uses the algebra's builders and ``@method`` only, as a method of your own would. Every
docstring begins with the formula, its scale, its rank and its number of parameters.
"""

from .blocks import bd_lora, btt, gralora, melora, miss, monarch
from .diagonal import delora, hadamard_adapter, ia3, kasa
from .hadamard import abba, hira, hut, loha
from .kron import krona, kronecker, lokr
from .low_rank import dora, dvora, lora, lora_xs, vera
from .masked import adalora, dora_dynamic, dylora, lora_squared, tlora
from .nonlinear import sine_lora
from .projected import lora_mini, pvera, qa_lora, randlora
from .rotations import boft, hra, oft, psoft, road
from .spectral import c3a, fourierft, waveft
from .structured import circulant, ldr, symmetric_toeplitz, toeplitz
from .tensors import cp, tt_lora, tucker

__all__ = [
    "abba",
    "adalora",
    "bd_lora",
    "boft",
    "btt",
    "c3a",
    "circulant",
    "cp",
    "delora",
    "dora",
    "dora_dynamic",
    "dvora",
    "dylora",
    "fourierft",
    "gralora",
    "hadamard_adapter",
    "hira",
    "hra",
    "hut",
    "ia3",
    "kasa",
    "krona",
    "kronecker",
    "ldr",
    "loha",
    "lokr",
    "lora",
    "lora_mini",
    "lora_squared",
    "lora_xs",
    "melora",
    "miss",
    "monarch",
    "oft",
    "psoft",
    "pvera",
    "qa_lora",
    "randlora",
    "road",
    "sine_lora",
    "symmetric_toeplitz",
    "tlora",
    "toeplitz",
    "tt_lora",
    "tucker",
    "vera",
    "waveft",
]
