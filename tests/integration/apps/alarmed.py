"""An application that watches its own import."""

from __future__ import annotations

import faulthandler

from hung import app

__all__ = ["app"]

faulthandler.dump_traceback_later(600)
