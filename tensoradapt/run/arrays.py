"""Arrays of any library: the namespace is found from the arrays that are given.

One code serves numpy, torch, jax and whatever follows the array API. No library but numpy is
imported here; there is no global backend.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_jax_array, is_torch_array

from ..errors import UnsupportedError

Array = Any
"""An array of some library: the one place where types end."""


def namespace(*arrays: Array) -> Any:
    """Find the array namespace that all given arrays belong to.

    Parameters
    ----------
    *arrays : array
        At least one; all of one library.

    Returns
    -------
    module
        The namespace, as array_api_compat wraps it.

    Raises
    ------
    UnsupportedError
        If something is not an array, or the arrays are of different libraries.

    Examples
    --------
    >>> namespace(np.zeros(3)).__name__
    'array_api_compat.numpy'
    """
    try:
        return array_namespace(*arrays)
    except TypeError:
        kinds = sorted({f"{type(a).__module__}.{type(a).__name__}" for a in arrays})
        raise UnsupportedError(
            f"Arrays of the types {', '.join(kinds) or 'none'} were given together.",
            "All values must be arrays of one library that follows the array API.",
            "Convert them first, for instance all with numpy.asarray or all with torch.as_tensor.",
        ) from None


def common_dtype(arrays: Iterable[Array]) -> Any:
    """The real floating dtype that the dtypes of some arrays promote to.

    Raises
    ------
    UnsupportedError
        If that dtype is not real floating.
    """
    listed = list(arrays)
    xp = namespace(*listed)
    dtypes = [a.dtype for a in listed]
    result = xp.result_type(*dtypes) if len(dtypes) > 1 else dtypes[0]
    if not xp.isdtype(result, "real floating"):
        raise UnsupportedError(
            f"Values of the dtype {result} were given.",
            "Expressions are evaluated in real floating-point numbers.",
            "Convert the values to a floating dtype, for instance float64.",
        )
    return result


def array_like(values: np.ndarray, like: Array, dtype: Any = None) -> Array:
    """Copy a numpy array into the namespace, dtype and device of another array.

    Parameters
    ----------
    values : numpy.ndarray
        What to copy.
    like : array
        Decides namespace and device, and dtype unless that is given.
    dtype : dtype, optional
        Another dtype of the namespace of ``like``.
    """
    xp = namespace(like)
    return xp.asarray(values.copy(), dtype=dtype or like.dtype, device=device(like))


def index_like(positions: np.ndarray, like: Array) -> Array:
    """Copy integer positions to where ``like`` is, in 32 bits where they fit."""
    small = positions.size == 0 or int(positions.max()) < 2**31
    chosen = positions.astype(np.int32 if small else np.int64)
    return namespace(like).asarray(chosen, device=device(like))


def to_numpy(a: Array) -> np.ndarray:
    """A copy in numpy float64, whatever the library, dtype and device."""
    if is_torch_array(a):
        return np.array(a.detach().cpu().double().numpy())
    return np.array(a, dtype=np.float64)


def is_half(a: Array) -> bool:
    """Whether the dtype has fewer than 32 bits, so that sums belong into float32."""
    return namespace(a).finfo(a.dtype).bits < 32


def hold(a: Array) -> Array:
    """The same values without a gradient: detached in torch, stop_gradient in jax."""
    if is_torch_array(a):
        return a.detach()
    if is_jax_array(a):
        return sys.modules["jax"].lax.stop_gradient(a)
    return a
