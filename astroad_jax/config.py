"""What a run is: frozen models, read from TOML, overridden by ``key=value``.

An unknown key is an error that names the nearest known one. Methods and preprocessors keep their own hyper-parameters
as `Frozen` models in their own files; here they are tables whose ``name`` picks the model.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from astroad_jax.errors import ConfigError, did_you_mean

M = TypeVar("M", bound=BaseModel)


class Frozen(BaseModel):
    """Base of every configuration model: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    VARYING: ClassVar[tuple[str, ...]] = ()  # keys whose default another key's value changes
    # Keys of how a model is trained or scored with, not of what its arrays are: a run may begin at a checkpoint of another
    # in which they differ.
    TUNABLE: ClassVar[tuple[str, ...]] = ()


class Data(Frozen):
    """Which table, and which of its columns mean what."""

    path: str = Field("", description="table to train on: a file, a directory of images, or tfds:name")
    size: int = Field(0, ge=0, description="pixels a side to which a directory's images are brought on reading; 0 = as is")
    id: str = Field("", description="column of object ids; empty: found by name, else the row number")
    ra: str = Field("", description="right ascension in degrees; empty: found by name, or none")
    dec: str = Field("", description="declination in degrees; empty: found by name, or none")
    label: str = Field("", description="column of class labels; empty: found by name, or none")
    features: tuple[str, ...] = Field((), description="columns to learn from; empty: every other numeric column")
    ignore: tuple[str, ...] = Field((), description="columns to leave out")
    anomalies: tuple[str, ...] = Field((), description="labels never trained on, and positive in the evaluation")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of every class held out for evaluation")
    calibration_fraction: float = Field(0.1, gt=0, lt=1, description="share of the training rows kept for p-values")
    validation_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the remaining training rows kept for a validation loss, by which method.plateau lowers the "
        "learning rate; 0 = none, and it goes by the training loss",
    )
    stream: bool = Field(False, description="read the file anew every epoch instead of holding it in memory")
    shuffle_rows: int = Field(100_000, ge=1, description="rows held for shuffling, and for fitting scales, when streaming")

    @field_validator("features", "ignore", "anomalies", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """One name may come without brackets, and a number stands for its digits."""
        several = value if isinstance(value, list | tuple) else [value]
        return [str(name) if isinstance(name, int | float) and not isinstance(name, bool) else name for name in several]


class Spectra(Frozen):
    """How survey spectra are brought to one grid, and which of them are fit for it; read where files are read."""

    bins: int = Field(1000, ge=1, description="pixels of the common grid, all equally wide")
    low: float = Field(3600.0, gt=0, allow_inf_nan=False, description="where the grid begins, in Angstrom (vacuum)")
    high: float = Field(7556.0, gt=0, allow_inf_nan=False, description="where it ends")
    frame: Literal["rest", "observed"] = Field(
        "rest", description="frame of the grid; under observed nothing is shifted, and redshifts are not looked at"
    )
    air: bool = Field(False, description="the files' wavelengths are those in air: convert them to vacuum")
    redshifts: str = Field(
        "", description="DESI: file of redshifts, or directory of redrock files; empty: the redrock file beside the coadd"
    )
    z_min: float = Field(0.0, gt=-1, allow_inf_nan=False, description="lowest redshift taken")
    z_max: float = Field(0.3, gt=-1, allow_inf_nan=False, description="highest redshift taken")
    snr_min: float = Field(
        5.0, ge=0, allow_inf_nan=False, description="median signal-to-noise of a bin that a spectrum must exceed; 0 = no cut"
    )
    coverage: float = Field(1.0, ge=0, le=1, description="share of the grid that pixels, good or bad, must cover")
    good: float = Field(0.5, ge=0, le=1, description="share of the grid's bins that must have a good pixel (ivar > 0)")

    @model_validator(mode="after")
    def _ranges(self) -> Spectra:
        """Each range goes upwards."""
        if self.high <= self.low:
            raise ValueError("high must be above low")
        if self.z_max < self.z_min:
            raise ValueError("z_max must not be below z_min")
        return self


class Preprocess(Frozen):
    """How objects are scaled; fitted on training rows only and saved with the model."""

    scale: Literal["auto", "quantile", "minmax", "standard", "gcn", "none", "linear", "asinh", "spectrum"] = Field(
        "auto",
        description="linear and asinh are for images (height, width, bands), spectrum for flux and ivar (2, pixels); "
        "auto = linear and spectrum for those, quantile for all else",
    )
    nan: Literal["flag", "median", "lowest", "error"] = Field(
        "flag",
        description="missing values: flag = null score for the object; median = training median; lowest = below every "
        "training value (of images: the band's lowest); error = refuse training rows that have any",
    )
    crop: int = Field(0, ge=0, description="images: side of the central square that is looked at, in pixels; 0 = all")
    size: int = Field(0, ge=0, description="images: side to which they are resized after that, in pixels; 0 = as they are")
    softening: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="asinh: flux at which the stretch turns from linear to logarithmic; 0 = each band's noise level",
    )

    components: int = Field(10, ge=0, description="spectra: principal components by which bad pixels are infilled")
    iterations: int = Field(
        20, ge=1, description="spectra: rounds in which they are learnt; takes no effect without bad pixels"
    )

    @model_validator(mode="after")
    def _own_keys(self) -> Preprocess:
        """What only images or spectra have is not given to other scalings, where it would go unheeded."""
        if (self.crop or self.size) and self.scale not in ("auto", "linear", "asinh"):
            raise ValueError("crop and size are for images: scale must be auto, linear or asinh")
        if self.softening and self.scale != "asinh":
            raise ValueError("softening is for images: scale must be asinh")
        if (self.components, self.iterations) != (10, 20) and self.scale not in ("auto", "spectrum"):
            raise ValueError("components and iterations are for spectra: scale must be auto or spectrum")
        return self


class Train(Frozen):
    """How long and in what pieces."""

    TUNABLE: ClassVar[tuple[str, ...]] = ("epochs", "steps_per_call", "checkpoint_every", "keep_checkpoints")
    seed: int = Field(0, ge=0, description="of every draw")
    batch_size: int = Field(256, ge=1, description="rows per update, over all devices")
    epochs: int = Field(100, ge=1, description="passes over the training rows")
    balance: bool = Field(False, description="draw every class equally often")
    augment: Literal["none", "turn"] = Field("none", description="turn: images are flipped and rotated at random")
    remainder: Literal["pad", "drop"] = Field(
        "pad", description="rows that do not fill a batch: masked padding, or left out of the epoch"
    )
    feed: Literal["resident", "tf.data"] = Field(
        "resident",
        description="rows kept on the device, or sent each step by tf.data (always, when streaming)",
    )
    steps_per_call: int = Field(32, ge=1, description="updates per compiled call; 1 for large models")
    log_every: int = Field(50, ge=1, description="steps per line of metrics.jsonl")
    checkpoint_every: int = Field(2000, ge=1, description="steps between checkpoints (a multiple of log_every)")
    keep_checkpoints: int = Field(3, ge=1, description="newest checkpoints that stay")


class Score(Frozen):
    """How catalogues are scored."""

    batch_size: int = Field(4096, ge=1, description="rows per compiled call at most; scores do not depend on it")
    slots: int = Field(
        0,
        ge=0,
        description="objects searched at once on each device, where the score is a search; 0 = 64 on a CPU, 512 elsewhere "
        "(fewer where memory runs out)",
    )
    false_alarm_rate: float = Field(0.01, gt=0, lt=1, description="where figures and counts draw the line")


class Run(Frozen):
    """A whole run: one TOML file."""

    data: Data = Data()
    spectra: Spectra = Spectra()
    preprocess: Preprocess = Preprocess()
    method: dict[str, Any] = Field({}, validate_default=True)
    train: Train = Train()
    score: Score = Score()

    @field_validator("method")
    @classmethod
    def _named(cls, method: dict[str, Any]) -> dict[str, Any]:
        """Hyper-parameters without a name are the default method's."""
        return {"name": "mcdsvdd", **method}


def parse(model: type[M], values: dict[str, Any], where: str) -> M:
    """Validate plain values against a model.

    Raises
    ------
    ConfigError
        Naming every key that is unknown (with the nearest known one) or has a value that cannot be used.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_explain(model, item) for item in error.errors()]
        raise ConfigError(
            "the configuration cannot be used", where=where, got="; ".join(problems), fix="correct these keys"
        ) from error


def _explain(model: type[BaseModel], item: Any) -> str:
    """One pydantic problem in a sentence."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "value_error" and isinstance(item["input"], dict):  # of a whole table, in its own words
        return ": ".join(filter(None, [key, item["msg"].removeprefix("Value error, ")]))
    if item["type"] != "extra_forbidden":
        return f"{key} = {item['input']!r}: {item['msg'].lower()}"
    for part in item["loc"][:-1]:
        model = model.model_fields[part].annotation  # type: ignore[assignment]
    if len(item["loc"]) == 1 and (home := _home(model, key)):
        return f"unknown key {key!r}, did you mean {home!r}?"
    return f"unknown key {key!r}, {did_you_mean(str(item['loc'][-1]), model.model_fields)}"


def _home(model: type[BaseModel], key: str) -> str:
    """The table of a model that has a key of this name, as ``table.key``; empty where none has."""
    tables = {name: field.annotation for name, field in model.model_fields.items()}
    found = (f"{name}.{key}" for name, table in tables.items() if key in getattr(table, "model_fields", {}))
    return next(found, "")


def override(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Apply ``table.key=value`` settings; values are TOML, and bare words are strings.

    Raises
    ------
    ConfigError
        A setting without ``=``, or one below a key that is no table.
    """
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError("an override must look like key=value", got=setting, fix="for example train.epochs=20")
        *tables, last = (part.strip() for part in key.split("."))
        table = values
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError("an override goes into a key that is no table", where=name, got=setting)
        table[last] = toml_value(text)
    return values


def toml_value(text: str) -> Any:
    """Read one TOML value; what is not TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def split(settings: list[str]) -> tuple[Path | None, list[str]]:
    """A leading configuration file, and the overrides after it.

    Raises
    ------
    ConfigError
        The first word is neither.
    """
    first = settings[0] if settings else ""
    if not first or "=" in first:
        return None, settings
    if not first.endswith(".toml"):
        fix = f"a table is given as --data {first}; astroad inspect writes a configuration for it"
        raise ConfigError("this is no configuration", where=first, expected="a TOML file, or KEY=VALUE", fix=fix)
    return Path(first), settings[1:]


def setting(key: str, value: Any) -> str:
    """An override, as `override` reads it, that sets a key to a value."""
    return f"{key}={_toml(value)}"


def load(path: Path | None, settings: Sequence[str] = ()) -> Run:
    """Read a run configuration from TOML (or take the defaults) and apply overrides.

    Raises
    ------
    ConfigError
        Missing file, broken TOML, unknown key, value out of range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError("no such configuration file", where=str(path), fix="check the path") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "this is no readable text file", where=str(path), expected="TOML in UTF-8", got=str(error)
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                "this file is not valid TOML", where=str(path), got=str(error), fix="correct the line"
            ) from error
    return parse(Run, override(values, settings), str(path or "command line"))


def dumps(config: BaseModel) -> str:
    """TOML text of a configuration, which `load` reads back; a value that is not set is left out, as TOML has none."""
    values = config.model_dump()
    lines = _lines({key: value for key, value in values.items() if not isinstance(value, dict)})
    for name, table in values.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *_lines(table)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _lines(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # the escapes of JSON are TOML's
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def differences(old: BaseModel, new: BaseModel) -> list[str]:
    """One line for every key in which two configurations differ."""
    a, b = _flat(old.model_dump()), _flat(new.model_dump())
    keys = sorted(set(a) | set(b))
    return [f"{key}: was {a.get(key)!r}, now {b.get(key)!r}" for key in keys if a.get(key) != b.get(key)]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
