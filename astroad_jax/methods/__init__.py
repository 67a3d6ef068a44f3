"""The methods by name. A new one is a new file and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from astroad_jax.config import Frozen, parse
from astroad_jax.errors import ConfigError, did_you_mean
from astroad_jax.methods import autoencoder, conv_autoencoder, dasvdd, deep_svdd, fanogan, ganomaly, vae, wgan_gp
from astroad_jax.types import Method, Plan


class Entry(NamedTuple):
    """A method's hyper-parameter model and what builds it from them."""

    config: type[Frozen]
    build: Callable[..., Method]
    needs_labels: bool = False


METHODS: dict[str, Entry] = {
    "autoencoder": Entry(autoencoder.Config, autoencoder.build),
    "vae": Entry(vae.Config, vae.build),
    "deep_svdd": Entry(deep_svdd.Config, deep_svdd.build),
    "mcdsvdd": Entry(deep_svdd.MultiClassConfig, deep_svdd.build_multi_class, needs_labels=True),
    "dasvdd": Entry(dasvdd.Config, dasvdd.build),
    "conv_autoencoder": Entry(conv_autoencoder.Config, conv_autoencoder.build),
    "ganomaly": Entry(ganomaly.Config, ganomaly.build),
    "wgan_gp": Entry(wgan_gp.Config, wgan_gp.build),
    "fanogan": Entry(fanogan.Config, fanogan.build),
}


def entry(name: str) -> Entry:
    """Look a method up.

    Raises
    ------
    ConfigError
        No method of that name.
    """
    if name not in METHODS:
        raise ConfigError("no such method", where="method.name", got=name, fix=did_you_mean(name, METHODS))
    return METHODS[name]


def configure(values: dict[str, Any]) -> Frozen:
    """Validate a method's table of hyper-parameters; ``name`` picks the model."""
    return parse(entry(str(values.get("name", ""))).config, values, "method")


def build(config: Frozen, plan: Plan) -> Method:
    """Build a method from its validated configuration (what `configure` returned) and the sizes of its data.

    Raises
    ------
    ConfigError
        A method that learns from labels without at least two classes.
    """
    found = entry(config.name)
    if found.needs_labels and plan.num_classes < 2:
        raise ConfigError(
            f"{config.name} learns from class labels",
            where="method.name",
            expected="at least 2 classes among the training rows",
            got=plan.num_classes,
            fix="name the label column (data.label); where data.anomalies leaves but one class, use method.name = deep_svdd",
        )
    return found.build(config, plan)
