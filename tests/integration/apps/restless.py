"""The server with a short memory: it retires workers half a second after they were needed.

Started instead of main.py, so that a test of seconds sees as many workers leave, and be taken
back while they leave, as the real one does in an hour.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[3])

import main  # noqa: E402 - only from there
import spm.manager  # noqa: E402
from spm.policy import Policy  # noqa: E402
from spm.settings import SPMS  # noqa: E402


class Restless(Policy):
    """Retires soon, and a few at once."""

    @classmethod
    def of(cls, settings: SPMS, usable_cores: int) -> Policy:
        """Return the usual policy with short times."""
        usual = Policy.of(settings, usable_cores)
        return usual._replace(hold_s=0.4, hold_max_s=0.8, step_s=0.05, step_share=0.5)


if __name__ == "__main__":
    spm.manager.Policy = Restless  # type: ignore[misc]
    main.run()
