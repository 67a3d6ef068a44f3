"""Faults on demand, to prove that nothing is lost by them: ``ASTROAD_FAULT=POINT:ACTION@COUNT``.

The COUNT-th time that the program passes POINT, ACTION happens: ``kill`` (as ``kill -9``), ``full`` (as on a full disk) or
``error`` (as on a vanished mount). Points are named where files are written: ``written``, ``synced``, ``renamed``, ``kept``
(`files.atomic`), ``line``, ``row``, ``removed``, ``locked``; ``*`` is any of them. Without the variable none of this is
active.
"""

from __future__ import annotations

import errno
import os
import signal

from astroad_jax.errors import ConfigError

VARIABLE = "ASTROAD_FAULT"
ACTIONS = ("kill", "full", "error")


class _Plan:
    """What is to go wrong, and how often its point was passed."""

    def __init__(self, text: str):
        point, _, rest = text.partition(":")
        action, _, count = rest.partition("@")
        if not point or action not in ACTIONS or not count.isdecimal():
            expected = f"POINT:ACTION@COUNT, an action of {', '.join(ACTIONS)}"
            raise ConfigError("no such fault", where=VARIABLE, expected=expected, got=text, fix="unset it, or mend it")
        self.name, self.action, self.left = point, action, int(count)

    def passed(self, name: str) -> None:
        if self.name not in ("*", name):
            return
        self.left -= 1
        if self.left == 0:
            self._happen()

    def _happen(self) -> None:
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.ENOSPC if self.action == "full" else errno.EIO
        raise OSError(number, os.strerror(number))


_plan: _Plan | None = None


def arm(text: str) -> None:
    """Ask for a fault, or for none (an empty text).

    Raises
    ------
    ConfigError
        There is no such fault.
    """
    global _plan  # the one state there is: a fault belongs to the whole process
    _plan = _Plan(text) if text else None


def point(name: str) -> None:
    """Pass a place where a fault may happen."""
    if _plan is not None:
        _plan.passed(name)


arm(os.environ.get(VARIABLE, ""))
