"""Fully connected networks: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Init = Literal["torch", "lecun", "small", "glorot"]
LONGEST = 256  # terms that a CPU matrix product adds in the same order whatever the number of rows (Eigen's blocking)

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "leaky_relu": lambda x: nn.leaky_relu(x, 0.01),
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "none": lambda x: x,
}


def _initialisers(kind: Init, fan_in: int) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    """Kernel and bias initialisers.

    ``torch``: both uniform in +-1/sqrt(fan_in), PyTorch's default for linear layers, which the reference
    implementations of MCDSVDD and DASVDD rely on. ``lecun``: normal, variance 1/fan_in, zero bias (Flax's default).
    ``small``: normal, standard deviation 0.02, for kernels and biases. ``glorot``: uniform, variance 2 / (fan_in +
    fan_out), zero bias (Keras' and TensorFlow Probability's default).
    """
    if kind == "torch":
        bound = fan_in**-0.5
        uniform = nn.initializers.uniform(2 * bound)
        shifted = lambda key, shape, dtype=jnp.float32: uniform(key, shape, dtype) - bound  # noqa: E731
        return shifted, shifted
    if kind == "lecun":
        return nn.initializers.lecun_normal(), nn.initializers.zeros_init()
    if kind == "glorot":
        return nn.initializers.glorot_uniform(), nn.initializers.zeros_init()
    return nn.initializers.normal(0.02), nn.initializers.normal(0.02)


def row_dot_general(x: jax.Array, kernel: jax.Array, numbers, precision=None, preferred_element_type=None) -> jax.Array:
    """``(..., K)`` times ``(K, N)``; on CPU as products over pieces of K, so that a row's bits do not depend on the others.

    A CPU library splits long sums by the shape of the whole product, so one row alone and the same row among 500 would
    differ in the last bits. Pieces of at most `LONGEST` terms are not split. They are views of the kernel: nothing is
    copied, and the speed is that of the plain product. A K without a divisor that gives such pieces is left whole.
    """

    def whole(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.dot_general(x, kernel, numbers, precision, preferred_element_type)

    def by_pieces(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:-1], pieces, -1)
        kernel = kernel.reshape(pieces, -1, kernel.shape[-1])
        by_piece = (((x.ndim - 1,), (1,)), ((x.ndim - 2,), (0,)))
        return jax.lax.dot_general(x, kernel, by_piece, precision, preferred_element_type).sum(0)

    pieces = _pieces(kernel.shape[0])
    return whole(x, kernel) if pieces == 1 else jax.lax.platform_dependent(x, kernel, cpu=by_pieces, default=whole)


def _pieces(length: int) -> int:
    """Fewest equal pieces of at most `LONGEST`, none shorter than a quarter of that; 1 where there are none."""
    fewest, most = -(-length // LONGEST), 4 * length // LONGEST
    return next((count for count in range(fewest, most + 1) if length % count == 0), 1)


class MLP(nn.Module):
    """Dense layers with an activation, and optionally batch normalisation, between them.

    Attributes
    ----------
    widths : tuple of int
        Output width of every layer, the last one included.
    activation, last : str
        Between the layers and after the last one; names in `ACTIVATIONS`.
    norm : bool
        Batch normalisation before every inner activation; averages come from rows whose mask is 1, and scoring uses
        the running averages.
    last_bias : bool
        Whether the last layer has a bias (Deep SVDD networks drop it).
    weights : {"torch", "lecun", "small", "glorot"}
        See `_initialisers`.
    dropout : float
        Share of every inner layer's activations that is set to 0 in training, the others scaled up to match; scoring
        drops none.
    """

    widths: tuple[int, ...]
    activation: str = "leaky_relu"
    last: str = "none"
    norm: bool = False
    last_bias: bool = True
    weights: Init = "torch"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """Map ``(B, ...)`` to ``(B, widths[-1])``; everything but the first axis is flattened."""
        h = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            final = i == len(self.widths) - 1
            kernel, bias = _initialisers(self.weights, h.shape[-1])
            use_bias = self.last_bias if final else True
            product = jax.lax.dot_general if train else row_dot_general
            h = nn.Dense(width, use_bias=use_bias, kernel_init=kernel, bias_init=bias, dot_general=product)(h)
            if self.norm and not final:
                keep = None if mask is None else (mask > 0)[:, None]
                h = nn.BatchNorm(use_running_average=not train, momentum=0.9)(h, mask=keep)
            h = ACTIVATIONS[self.last if final else self.activation](h)
            if self.dropout and not final:
                h = nn.Dropout(self.dropout)(h, deterministic=not train)
        return h
