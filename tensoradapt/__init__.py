"""tensoradapt: write the update of a fine-tuned weight once, as a formula.

From the formula come the planned forward and backward, the merge, the counts, a rank bound and
a PyTorch layer. ``import tensoradapt as ta`` loads the algebra only; numpy, torch and the
planner's helpers are loaded with the first function that needs them.

>>> import tensoradapt as ta
>>> from tensoradapt import zoo
>>> e = zoo.loha(rank=4).on((768, 3072))
>>> int(ta.rank_bound(e)), int(ta.count(e))
(16, 30720)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .algebra import (
    Expr,
    at_start,
    base,
    base_bias,
    block_diag,
    cayley,
    circulant,
    clip,
    column_norm,
    concatenate,
    cos,
    cp,
    dumps,
    einsum,
    elementwise,
    exact,
    exp,
    exponential,
    eye,
    formula,
    from_data,
    frozen,
    hold,
    householder,
    khatri_rao,
    kron,
    latex,
    linear_transform,
    loads,
    low_displacement_rank,
    low_rank,
    monarch,
    neumann,
    norm,
    ones,
    orthonormal,
    parameter,
    place,
    polynomial,
    relu,
    reshape,
    row_norm,
    scale_columns,
    scale_rows,
    scaling,
    shuffle,
    sigmoid,
    sin,
    skew_circulant,
    softmax_top,
    starts,
    symmetric_toeplitz,
    take,
    tanh,
    tensor_ring,
    tensor_train,
    to_data,
    toeplitz,
    tree,
    tucker,
    value_of,
    window,
)
from .errors import TensorAdaptError
from .structure import Fixed, Method, Structure, Update, method, methods

if TYPE_CHECKING:
    from .analysis.bound import RankBound, rank_bound
    from .analysis.certificate import certify_rank
    from .analysis.count import Count, count
    from .analysis.dimension import Dimension, family_dimension
    from .analysis.point import PointRank, rank_at
    from .analysis.records import RankCertificate
    from .analysis.verify import Verification, verify_certificate
    from .documents import from_json, to_json
    from .network.lower import lower
    from .planning.door import plan
    from .planning.planner import Plan
    from .run.evaluate import evaluate
    from .run.readings import apply, materialize
    from .run.sample import sample
    from .spelling import as_structure, parse

__version__ = "0.1.0"

_LAZY = {
    "Count": "analysis.count",
    "Dimension": "analysis.dimension",
    "Plan": "planning.planner",
    "PointRank": "analysis.point",
    "RankBound": "analysis.bound",
    "RankCertificate": "analysis.records",
    "Verification": "analysis.verify",
    "apply": "run.readings",
    "as_structure": "spelling",
    "certify_rank": "analysis.certificate",
    "count": "analysis.count",
    "evaluate": "run.evaluate",
    "family_dimension": "analysis.dimension",
    "from_json": "documents",
    "lower": "network.lower",
    "materialize": "run.readings",
    "parse": "spelling",
    "plan": "planning.door",
    "rank_at": "analysis.point",
    "rank_bound": "analysis.bound",
    "sample": "run.sample",
    "to_json": "documents",
    "verify_certificate": "analysis.verify",
}
"""Public functions whose modules load more than the algebra, and where they live."""

__all__ = [
    "Count",
    "Dimension",
    "Expr",
    "Fixed",
    "Method",
    "Plan",
    "PointRank",
    "RankBound",
    "RankCertificate",
    "Structure",
    "TensorAdaptError",
    "Update",
    "Verification",
    "__version__",
    "apply",
    "as_structure",
    "at_start",
    "base",
    "base_bias",
    "block_diag",
    "cayley",
    "certify_rank",
    "circulant",
    "clip",
    "column_norm",
    "concatenate",
    "cos",
    "count",
    "cp",
    "dumps",
    "einsum",
    "elementwise",
    "evaluate",
    "exact",
    "exp",
    "exponential",
    "eye",
    "family_dimension",
    "formula",
    "from_data",
    "from_json",
    "frozen",
    "hold",
    "householder",
    "khatri_rao",
    "kron",
    "latex",
    "linear_transform",
    "loads",
    "low_displacement_rank",
    "low_rank",
    "lower",
    "materialize",
    "method",
    "methods",
    "monarch",
    "neumann",
    "norm",
    "ones",
    "orthonormal",
    "parameter",
    "parse",
    "place",
    "plan",
    "polynomial",
    "rank_at",
    "rank_bound",
    "relu",
    "reshape",
    "row_norm",
    "sample",
    "scale_columns",
    "scale_rows",
    "scaling",
    "shuffle",
    "sigmoid",
    "sin",
    "skew_circulant",
    "softmax_top",
    "starts",
    "symmetric_toeplitz",
    "take",
    "tanh",
    "tensor_ring",
    "tensor_train",
    "to_data",
    "to_json",
    "toeplitz",
    "tree",
    "tucker",
    "value_of",
    "verify_certificate",
    "window",
]


def __getattr__(name: str) -> Any:
    """Load a public function with the first use of its name."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "parse":
        import_module(".zoo", __name__)  # so that the published methods have names
    return getattr(import_module("." + _LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
