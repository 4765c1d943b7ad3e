"""The heap before a fork: as little as possible in it, and as little as possible written to it.

What parent and child share stays shared until one of them writes to it, page by page.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_libc: Final = ctypes.CDLL(None)


def settle() -> None:
    """Collect, freeze what is left, and give free pages back to the system.

    The collector writes to whatever it looks at; what is frozen it leaves alone. An
    import leaves holes in the C library's heap, which the child would fill, and so own:
    malloc_trim(3) gives them back (a megabyte for a Flask application; musl has no such call).
    """
    gc.collect()
    gc.freeze()
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
