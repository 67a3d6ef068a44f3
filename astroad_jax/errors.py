"""Errors a user can act on, and the exit codes that go with them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

EXIT_OK = 0
EXIT_BUG = 1  # an exception nobody expected: a defect of this package
EXIT_INPUT = 2  # usage, configuration or data that the user can put right
EXIT_QUARANTINED = 3  # finished, but some inputs were set aside with a reason
EXIT_INTERRUPTED = 4  # stopped by a signal; the same command resumes
EXIT_CORRUPT = 5  # saved state that does not match its checksums


class AstroadError(Exception):
    """A problem that has a place, an expectation and a remedy.

    Parameters
    ----------
    what : str
        One sentence: what is wrong.
    where : str, optional
        File, column, row, configuration key.
    expected, got : object, optional
        What was wanted there and what was found.
    fix : str, optional
        What the user can do about it.
    """

    exit_code = EXIT_INPUT

    def __init__(self, what: str, *, where: str = "", expected: object = None, got: object = None, fix: str = ""):
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        super().__init__(self.message())

    def message(self) -> str:
        """All parts, one line each, empty ones left out."""
        parts = [("in", self.where), ("expected", self.expected), ("got", self.got), ("fix", self.fix)]
        lines = [f"  {name}: {value}" for name, value in parts if value not in ("", None)]
        return "\n".join([self.what, *lines])


class ConfigError(AstroadError):
    """A configuration that cannot be used."""


class DataError(AstroadError):
    """Input data that cannot be read or does not have the agreed form."""


class BusyError(AstroadError):
    """A directory that another process is using."""


class MismatchError(AstroadError):
    """A saved run or score directory that belongs to something else than what is now asked."""


class CorruptError(AstroadError):
    """Saved state whose bytes do not match their checksums."""

    exit_code = EXIT_CORRUPT


class StorageError(AstroadError):
    """A file system that did not take what was written."""


class ExportError(AstroadError):
    """A model that cannot be exported, or whose export does not give its scores."""

    exit_code = EXIT_BUG


class DivergedError(AstroadError):
    """Training that produced non-finite numbers or collapsed."""


class Interrupted(AstroadError):
    """A signal asked the process to stop; what is saved can be resumed."""

    exit_code = EXIT_INTERRUPTED


def check_same(what: str, held: Mapping[str, object], own: Mapping[str, object], *, where: str, fix: str) -> None:
    """Refuse what was saved of something else.

    Raises
    ------
    MismatchError
        Naming what differs.
    """
    differing = sorted(key for key in {*held, *own} if held.get(key) != own.get(key))
    if differing:
        expected, got = ({key: side.get(key) for key in differing} for side in (held, own))
        raise MismatchError(what, where=where, expected=expected, got=got, fix=fix)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the nearest known name, or the list of known names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
