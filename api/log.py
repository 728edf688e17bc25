"""How the service's processes log: one line per event, on standard error."""

from __future__ import annotations

import logging

_FORMAT = "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"


def configure(level: str) -> None:
    """Log what is at least ``level``, one of the setting ``log_level``'s values, from now on."""
    logging.basicConfig(format=_FORMAT)
    logging.getLogger().setLevel(level.upper())
