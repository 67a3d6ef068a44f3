"""``astroad keys``: every key of a configuration with its default and meaning."""

from __future__ import annotations

from collections.abc import Callable

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
        What `config.load` reads as the defaults; keys that are unset by default are commented out.

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
        choices = getattr(type(table).model_fields[key].annotation, "__args__", ())
        named = [item for item in choices if isinstance(item, str)]
        comment = f"({' | '.join(named)}) {meaning}".rstrip() if len(named) > 1 else meaning
        entry = f"# {key} =" if value is None else config.setting(key, value).replace("=", " = ", 1)
        return f"# {comment}\n{entry}" if comment else entry

    return lines


def describe(model: type[config.Frozen], key: str) -> str:
    """What a key means: of the class that says it, the nearest first; empty where none does."""
    fields = (getattr(base, "model_fields", {}).get(key) for base in model.__mro__)
    return next((field.description for field in fields if field is not None and field.description), "")
