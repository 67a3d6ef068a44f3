"""Linen modules, and the two ways the methods call them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

Variables = dict[str, Any]  # {"params": ..., and "batch_stats": ... where the module has any}


def forward(module: nn.Module, variables: Variables, x: jax.Array) -> jax.Array:
    """Apply a module as in scoring: running averages, no noise."""
    return module.apply(variables, x)


def forward_train(
    module: nn.Module,
    variables: Variables,
    params: Any,
    x: jax.Array,
    mask: jax.Array | None,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Variables]:
    """Apply a module as in training, with `params` in the place of its own, and return its updated variables.

    `params` is apart so that a loss can be differentiated with respect to it alone; `key` is for dropout.
    """
    options = {"train": True, "mask": mask, "mutable": ["batch_stats"]}
    rngs = None if key is None else {"dropout": key}
    out, updated = module.apply({**variables, "params": params}, x, rngs=rngs, **options)
    return out, {**variables, **updated}
