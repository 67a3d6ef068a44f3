"""The page of an explanation: HTML that needs nothing but the pictures beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import numpy as np

from astroad_jax.app.bundle import Bundle
from astroad_jax.app.explaining import Explanation

STYLE = """
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222 }
section { border-top: 1px solid #ccc; padding: 0.8em 0 }
h2 { font-size: 1.05em; margin: 0.2em 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1em 1em; margin: 0.4em 0 }
dt { color: #666 }
dd { margin: 0; overflow-wrap: anywhere }
img { max-width: 100%; height: auto }
"""
SHOWN = ("label", "z", "snr")


def page(found: Explanation, rows: Sequence[dict[str, Any]], model: Bundle) -> str:
    """HTML of all objects, the strangest first; whatever comes from data is escaped."""
    title = f"Why these {len(rows)} objects are strange"
    share = "A percentage is a feature's share of all contributions, by size. " if found.names else ""
    about = (
        f"{len(rows)} of {found.among} objects with a score, by {model.settings.method['name']}, model {model.digest[:12]}. "
        f"{_noise(found)} Contributions add up to the score less the base, its value where the explanation starts. {share}"
        "All numbers are in explanations.h5, one row an object in summary.parquet and summary.json."
    )
    head = f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>'
    begin = f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n<p>{escape(about)}</p>"
    sections = [_section(found, row, number) for number, row in enumerate(rows)]
    return "\n".join([head, begin, *sections, "</body>\n</html>\n"])


def _noise(found: Explanation) -> str:
    """What a sigma is."""
    if found.rebuilt is None:
        return "There are no residuals: the method does not rebuild its objects."
    if found.residual is None:
        return "There are no residuals: no training objects were asked for to take a noise level from."
    if found.spectra:
        return "Residuals are in units of the spectra's own noise, by their inverse variance."
    return (
        f"A sigma is what 68.27 % of the residuals of {found.noise_rows} training objects are within, for each entry: the "
        "noise and what the model gets wrong of ordinary objects together."
    )


def _section(found: Explanation, row: dict[str, Any], number: int) -> str:
    name, picture = str(row["object_id"]), quote(row["picture"])
    facts = {"score": _number(row["score"]), "base": _number(row["base"]), "p-value": _number(row["p_value"])}
    facts |= {key: f"{row[key]:.6f}" for key in ("ra", "dec") if key in row}
    facts |= {key: _text(row[key]) for key in SHOWN if key in row}
    facts["flags"] = f"{row['flags']}: {row['flag_names']}" if row["flags"] else "0"
    facts["stands out"] = row["remark"]
    facts["nearest known"] = _neighbours(found, number)
    if not row["complete"]:
        facts["caution"] = f"the contributions miss the score by {found.error[number]:.1%} and are to be taken as rough"
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in facts.items())
    image = f'<a href="{picture}"><img src="{picture}" alt="{escape(name)}" loading="lazy"></a>'
    return f"<section>\n<h2>{row['rank']}. {escape(name)}</h2>\n<dl>{listed}</dl>\n{image}\n</section>"


def _neighbours(found: Explanation, number: int) -> str:
    near = found.known.neighbours
    pairs = zip(near.id[number].tolist(), near.distance[number])
    return ", ".join(f"{name} ({distance:.3g})" for name, distance in pairs if np.isfinite(distance)) or "-"


def _text(value: Any) -> str:
    return _number(value) if isinstance(value, float | np.floating) else str(value) or "-"


def _number(value: Any) -> str:
    return "-" if math.isnan(value) else f"{value:.6g}"
