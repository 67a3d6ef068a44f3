"""Results as text that can be read in a terminal and pasted into a README."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, digits: int = 3) -> str:
    """Plain-text table: a header, a rule, one line a row; numbers to the right, words to the left.

    Parameters
    ----------
    rows : sequence of dict
        What is not in a row is left empty.
    columns : sequence of str, optional
        Which keys, in which order; by default every key, in order of appearance.
    digits : int
        Decimals of a float; where that would show 0 or more than seven figures, as many significant digits.
        NaN is ``-``: no value, not zero.

    Returns
    -------
    str
        Lines joined by newlines, without one at the end.
    """
    names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(name), digits) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[j]) for line in cells), 0) for j, name in enumerate(names)]
    right = [all(_number(row.get(name)) for row in rows) for name in names]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join(_line(line, widths, right) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = [cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(cells, widths, right)]
    return "  ".join(parts).rstrip()


def _number(value: Any) -> bool:
    return value is None or (hasattr(value, "__float__") and not isinstance(value, bool))


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return ""
    if not hasattr(value, "__float__") or hasattr(value, "__index__"):
        return str(value)
    number = float(value)
    if math.isnan(number):
        return "-"
    small = number != 0 and abs(number) < 0.5 * 10**-digits
    return f"{number:.{digits}g}" if small or abs(number) >= 1e7 else f"{number:.{digits}f}"
