"""Convolutional networks for images of ``4 * 2^k`` pixels a side: arrays in, arrays out.

`widths` lists the channels at every size, from the image's half down to 4 x 4 in encoders and critics, and from 4 x 4 up
to the image's half in generators and decoders; there are k of them. Parameters are float32; `dtype` is what is computed in.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from astroad_jax.nets import fastconv
from astroad_jax.nets.dense import ACTIVATIONS

Norm = Literal["none", "batch", "layer"]
Init = Literal["he", "dcgan"]


def levels(size: int) -> int:
    """k of a side of ``4 * 2^k`` pixels.

    Raises
    ------
    ValueError
        Any other size.
    """
    k = (size // 4).bit_length() - 1
    if size < 8 or 4 << k != size:
        raise ValueError(f"expected a side of 4 * 2^k pixels (8, 16, 32, 64, 128, 256, ...), got {size}")
    return k


class Conv(nn.Module):
    """One convolution: ``same`` (3 x 3, or `size`), ``down`` (4 x 4, half the side) or ``up`` (its transpose).

    Kernels start normal: ``he`` with variance 2 / fan-in, ``dcgan`` with standard deviation 0.02.
    """

    features: int
    kind: Literal["same", "down", "up"] = "same"
    size: int = 3
    use_bias: bool = True
    weights: Init = "he"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``(B, H, W, C)`` to ``(B, H', W', features)``."""
        side = self.size if self.kind == "same" else 4
        if side % 2 == 0 and self.kind == "same":
            raise ValueError(f"a convolution that keeps the size has an odd kernel, not {side} x {side}")
        # Every output pixel of an up-convolution sees a quarter of the kernel.
        fan_in = side * side * x.shape[-1] // (4 if self.kind == "up" else 1)
        deviation = 0.02 if self.weights == "dcgan" else (2.0 / fan_in) ** 0.5
        kernel = self.param("kernel", nn.initializers.normal(deviation), (side, side, x.shape[-1], self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.kind == "same":
            y = fastconv.conv(x, kernel, side // 2)
        else:
            y = (fastconv.down if self.kind == "down" else fastconv.up)(x, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            y = _biased(y, bias)
        return y


@jax.custom_vjp
def _biased(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Images plus one float32 number a channel, whose gradient is summed in float32 whatever the images' type."""
    return x + bias.astype(x.dtype).reshape(1, 1, 1, -1)


def _biased_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return _biased(x, bias), None


def _biased_backward(kept: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, jnp.sum(gradient, axis=(0, 1, 2), dtype=jnp.float32)


_biased.defvjp(_biased_forward, _biased_backward)


def _norm(kind: Norm, x: jax.Array, train: bool, mask: jax.Array | None, weights: Init) -> jax.Array:
    """Batch averages come from the images whose mask is 1."""
    if kind == "none":
        return x
    scale = nn.initializers.normal(0.02) if weights == "dcgan" else nn.initializers.zeros_init()
    shifted = lambda key, shape, dtype=jnp.float32: 1.0 + scale(key, shape, dtype)  # noqa: E731
    if kind == "layer":
        return nn.LayerNorm(reduction_axes=(1, 2, 3), scale_init=shifted, dtype=x.dtype)(x)
    keep = None if mask is None else (mask > 0).reshape(-1, 1, 1, 1)
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, scale_init=shifted, dtype=x.dtype)(x, mask=keep)


def _layer(net: Any, x: jax.Array, kind: Any, width: int, norm: Norm, train: bool, mask: jax.Array | None) -> jax.Array:
    """Convolution, normalisation, activation, as the network that they are part of has them."""
    x = Conv(width, kind, use_bias=norm != "batch", weights=net.weights, dtype=net.dtype)(x)
    return _activation(net.activation)(_norm(norm, x, train, mask, net.weights))


class Features(nn.Module):
    """Trunk of critics and encoders: half the side again and again, then (optionally) one more layer at 4 x 4.

    ``(B, 4 * 2^k, ., C) -> (B, 4, 4, widths[-1])``. With `last`, a 3 x 3 layer of that many channels follows. The first
    layer is never normalised, as in DCGAN.
    """

    widths: tuple[int, ...]
    last: int | None = None
    norm: Norm = "none"
    activation: str = "leaky_relu"
    weights: Init = "he"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """Feature map at 4 x 4."""
        layers = [("down", width) for width in self.widths] + ([("same", self.last)] if self.last else [])
        for i, (kind, width) in enumerate(layers):
            x = _layer(self, x, kind, width, "none" if i == 0 else self.norm, train, mask)
        return x


def _activation(name: str):
    return (lambda x: nn.leaky_relu(x, 0.2)) if name == "leaky_relu" else ACTIVATIONS[name]  # DCGAN's slope


class Critic(nn.Module):
    """Features, then dense layers to one number: five convolutions and two dense layers at 64 pixels (paper 002)."""

    widths: tuple[int, ...]
    last: int | None = None
    dense: tuple[int, ...] = (128,)
    norm: Norm = "none"
    weights: Init = "he"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Layers, shared by `features` and the call."""
        self.trunk = Features(self.widths, self.last, self.norm, weights=self.weights, dtype=self.dtype)
        self.head = [nn.Dense(width) for width in (*self.dense, 1)]

    def features(self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """Flattened output of the last convolution, ``(B, F)`` float32."""
        maps = self.trunk(x, train=train, mask=mask)
        return maps.reshape(maps.shape[0], -1).astype(jnp.float32)

    def __call__(self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """``(B, H, W, C) -> (B,)``, unbounded."""
        return self.judge(self.features(x, train=train, mask=mask))

    def judge(self, h: jax.Array) -> jax.Array:
        """The dense layers, on features: ``(B, F) -> (B,)``."""
        for layer in self.head[:-1]:
            h = nn.leaky_relu(layer(h), 0.2)
        return self.head[-1](h)[:, 0]


class Encoder(nn.Module):
    """Features, then one dense layer to the code."""

    latent: int
    widths: tuple[int, ...]
    last: int | None = None
    norm: Norm = "none"
    output: str = "none"
    weights: Init = "he"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """``(B, H, W, C) -> (B, latent)`` float32."""
        trunk = Features(self.widths, self.last, self.norm, weights=self.weights, dtype=self.dtype)
        maps = trunk(x, train=train, mask=mask)
        return ACTIVATIONS[self.output](nn.Dense(self.latent)(maps.reshape(maps.shape[0], -1).astype(jnp.float32)))


@jax.custom_vjp
def blurred(x: jax.Array) -> jax.Array:
    """Images ``(B, H, W, C)`` averaged over neighbours by 1, 2, 1 along both sides, the edge repeated.

    Of what an up-convolution makes: its neighbouring pixels come from different weights, and images are grained by it until
    training has made these alike (Karras, Laine & Aila 2019, "A Style-Based Generator Architecture", after Zhang 2019).
    With the edge repeated the averages are a symmetric matrix: the way back is the same.
    """
    rows = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
    x = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    columns = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
    return (columns[:, :, :-2] + 2 * columns[:, :, 1:-1] + columns[:, :, 2:]) / 4


# Left to itself, differentiation makes a scatter of the repeated edge: 80 ms on CPU for 32 images of 64 x 64 x 16, not 2.
blurred.defvjp(lambda x: (blurred(x), None), lambda kept, gradient: (blurred(gradient),))


class Generator(nn.Module):
    """One dense layer to 4 x 4, then twice the side again and again, then `refine` layers and the output layer.

    At 64 pixels with ``refine=(32,)`` that is one dense layer and six convolutions (paper 002).

    Attributes
    ----------
    widths : tuple of int
        Channels at 4 x 4 and after every up-convolution: k + 1 of them for ``4 * 2^k`` pixels, or k where the last layer
        is one more.
    last : {"same", "up"}
        Last layer: 3 x 3 at full size, or an up-convolution straight to the image, as DCGAN has it.
    output : str
        After the last layer; ``tanh`` for images in [-1, 1].
    blur : bool
        Whether what every up-convolution before the last layer gives is `blurred`.
    """

    channels: int
    widths: tuple[int, ...]
    refine: tuple[int, ...] = ()
    last: Literal["same", "up"] = "same"
    norm: Norm = "none"
    activation: str = "leaky_relu"
    output: str = "tanh"
    weights: Init = "he"
    blur: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """``(B, latent) -> (B, 4 * 2^k, ., channels)`` float32."""
        act = _activation(self.activation)
        x = nn.Dense(16 * self.widths[0], dtype=self.dtype)(z).reshape(z.shape[0], 4, 4, self.widths[0])
        x = act(_norm(self.norm, x, train, mask, self.weights))
        for kind, width in [("up", width) for width in self.widths[1:]] + [("same", width) for width in self.refine]:
            x = _layer(self, x, kind, width, self.norm, train, mask)
            x = blurred(x) if self.blur and kind == "up" else x
        x = Conv(self.channels, self.last, weights=self.weights, dtype=self.dtype)(x)
        return ACTIVATIONS[self.output](x.astype(jnp.float32))
