"""The zoo: published methods, each a short function from a weight to its update ΔW.

Uses the algebra's builders and ``@method`` only, as a method of your own would. Every
docstring begins with the formula, its scale, its rank and its number of parameters.
"""

from .affine import beft, glora, glora_lycoris
from .banks import shared_dvora, shared_randlora, shared_vera, tinylora, unilora, vblora
from .blocks import bd_lora, btt, gralora, melora, miss, monarch
from .decomposed import adamss, deft, frod, osf, peanut
from .diagonal import delora, hadamard_adapter, ia3, kasa
from .hadamard import abba, hira, hut, loha
from .kron import krona, kronecker, lokr
from .low_rank import dora, dvora, lora, lora_xs, vera
from .masked import adalora, dora_dynamic, dylora, lora_squared, tlora
from .nonlinear import sine_lora
from .projected import lora_mini, pvera, qa_lora, randlora
from .rotations import boft, hra, oft, psoft, road
from .shared import aurora, cara, fact_tk, fact_tt, lorta, lotr
from .sparse import shira, supertuning
from .spectral import c3a, fourierft, waveft
from .starting import since_start
from .structured import circulant, ldr, symmetric_toeplitz, toeplitz
from .superlora import superlora
from .tensors import cp, flora, loretta, quanta, tt_lora, tucker

__all__ = [
    "abba",
    "adalora",
    "adamss",
    "aurora",
    "bd_lora",
    "beft",
    "boft",
    "btt",
    "c3a",
    "cara",
    "circulant",
    "cp",
    "deft",
    "delora",
    "dora",
    "dora_dynamic",
    "dvora",
    "dylora",
    "fact_tk",
    "fact_tt",
    "flora",
    "fourierft",
    "frod",
    "glora",
    "glora_lycoris",
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
    "loretta",
    "lorta",
    "lotr",
    "melora",
    "miss",
    "monarch",
    "oft",
    "osf",
    "peanut",
    "psoft",
    "pvera",
    "qa_lora",
    "quanta",
    "randlora",
    "road",
    "shared_dvora",
    "shared_randlora",
    "shared_vera",
    "shira",
    "since_start",
    "sine_lora",
    "superlora",
    "supertuning",
    "symmetric_toeplitz",
    "tinylora",
    "tlora",
    "toeplitz",
    "tt_lora",
    "tucker",
    "unilora",
    "vblora",
    "vera",
    "waveft",
]
