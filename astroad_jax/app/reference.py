"""``astroad keys``: every key of a configuration with its default and meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from astroad_jax import config
from astroad_jax.methods import configure


def reference(method: str = "mcdsvdd") -> str:
    """A configuration of defaults as TOML, a comment above every key.

    Parameters
    ----------
    method : str
        Whose hyper-parameters the ``[method]`` table has.

    Returns
    -------
    str
        What `config.load` reads as the defaults. Keys that are unset by default are commented out, and so are those whose
        default another key changes: given, they would stay as they are when that key is edited.

    Raises
    ------
    ConfigError
        No method of that name.
    """
    run = config.Run()
    tables = {name: getattr(run, name) for name in config.Run.model_fields if name != "method"}
    tables = {**tables, "method": configure({"name": method})}
    return "\n\n".join(f"[{name}]\n" + "\n".join(map(_entry(table), _keys(table))) for name, table in tables.items()) + "\n"


def _keys(table: config.Frozen) -> list[str]:
    """Names in order, that of the method first."""
    return sorted(type(table).model_fields, key=lambda key: key != "name")


def _entry(table: config.Frozen) -> Callable[[str], str]:
    """Lines of one key."""

    def lines(key: str) -> str:
        value, meaning = getattr(table, key), describe(type(table), key)
        named = _choices(type(table).model_fields[key].annotation)
        comment = f"({' | '.join(named)}) {meaning}".rstrip() if len(named) > 1 else meaning
        entry = f"{key} =" if value is None else config.setting(key, value).replace("=", " = ", 1)
        entry = f"# {entry}" if value is None or key in table.VARYING else entry
        return f"# {comment}\n{entry}" if comment else entry

    return lines


def _choices(annotation: Any) -> list[str]:
    """The words that a key may be, and those of a key that may be unset as well."""
    parts = [[item] if isinstance(item, str) else _choices(item) for item in get_args(annotation)]
    return [word for part in parts for word in part]


def describe(model: type[config.Frozen], key: str) -> str:
    """What a key means: of the class that says it, the nearest first; empty where none does."""
    fields = (getattr(base, "model_fields", {}).get(key) for base in model.__mro__)
    return next((field.description for field in fields if field is not None and field.description), "")
