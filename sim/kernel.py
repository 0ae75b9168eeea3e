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

    Divisions follow IEEE 754 as in NumPy: the check that raises ZeroDivisionError would keep loops out of vector registers.

    Numba's cache watches the file a kernel stands in and not those of the helpers it calls, so an edited helper would
    live on inside a cached caller. The cache's folder therefore carries a fingerprint of every source of this package.
    """
    chosen = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(Path(chosen or _HERE / "__pycache__") / _CACHE)
    try:
        return cast("_Function", numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    finally:
        numba.config.CACHE_DIR = chosen
