"""The one way a function becomes machine code here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])

_HERE = Path(__file__).parent


def _fingerprint() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(_HERE.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


_CACHE = f"kernels-{_fingerprint()}"


def kernel(function: _Function) -> _Function:
    """Compile with Numba on first use: cached on disk, without the interpreter's lock, without fastmath.

    Divisions follow IEEE 754 as in NumPy: the check that raises ZeroDivisionError would keep loops out of vector
    registers. Numba's cache watches the file a kernel stands in and not those of the helpers it calls, so an edited
    helper would live on inside a cached caller; the cache's folder therefore carries a fingerprint of every source of
    this package.
    """
    return _compiled(function)


def inner(function: _Function) -> _Function:
    """Compile a function that only other kernels call: without the wrapper Python would need, it compiles sooner."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def helper(function: _Function) -> _Function:
    """Compile a small function that becomes part of every kernel that calls it, so that loops stay vector code."""
    return _compiled(function, forceinline=True)


def _compiled(function: _Function, **options: bool) -> _Function:
    chosen = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(Path(chosen or _HERE / "__pycache__") / _CACHE)
    try:
        make = numba.njit(cache=True, nogil=True, error_model="numpy", **options)
        return cast("_Function", make(function))
    finally:
        numba.config.CACHE_DIR = chosen
