"""Convolutions that differentiate as fast as they run: stride 1 only, strides by moving pixels into channels.

Two things make a plain convolution's gradient slow on CPU. Inside a loop its input gradient keeps the kernel's flip folded
into the operation, which then misses the fast path: `conv` lays the flipped kernel out and convolves forwards. And the
gradients of strided and of transposed convolutions have no fast path at all: `down` and `up` are the same linear maps as a
4 x 4 convolution of stride 2 and its transpose, term for term, on a 2 x 2 convolution of stride 1 and a reshape. Nothing
here is less than exact, and all of it can be differentiated again (a gradient penalty is).

Images are ``(B, H, W, C)``, kernels ``(height, width, in, out)``.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

LAYOUT = ("NHWC", "HWIO", "NHWC")


def _plain(x: jax.Array, kernel: jax.Array, pad: int) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((pad, pad), (pad, pad)), dimension_numbers=LAYOUT)


def _on_cpu(x: jax.Array, kernel: jax.Array, pad: int) -> jax.Array:
    """The same sums in the form that XLA's CPU back end is fastest at."""
    size, width_in, width_out = kernel.shape[0], *kernel.shape[2:]
    height, width = (n + 2 * pad - size + 1 for n in x.shape[1:3])
    if size == 2 and pad == 0:  # four views side by side, and one matrix product
        views = [x[:, i : i + height, j : j + width] for i in (0, 1) for j in (0, 1)]
        return jnp.concatenate(views, axis=-1) @ kernel.reshape(4 * width_in, width_out)
    if 2 * pad == size - 1 and height >= 32:  # one row more, cut off again: measured 1.4 times as fast at 64 x 64 x 32
        padding = ((pad, pad + 1), (pad, pad))
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)[:, :height]
    return _plain(x, kernel, pad)


def _convolve(x: jax.Array, kernel: jax.Array, pad: int) -> jax.Array:
    return jax.lax.platform_dependent(x, kernel, cpu=partial(_on_cpu, pad=pad), default=partial(_plain, pad=pad))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, pad: int) -> jax.Array:
    """Convolution of stride 1 with `pad` rows and columns of zeros on every side: ``(B, H + 2 pad - k + 1, ..., out)``."""
    return _convolve(x, kernel, pad)


def _forward(x: jax.Array, kernel: jax.Array, pad: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv(x, kernel, pad), (x, kernel)


def _backward(pad: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    # The barrier keeps the flip from being folded back into the convolution.
    flipped = jax.lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    _, kernel_gradient = jax.vjp(lambda k: _plain(x, k, pad), kernel)
    return conv(gradient, flipped, kernel.shape[0] - 1 - pad), *kernel_gradient(gradient)


conv.defvjp(_forward, _backward)


def down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """4 x 4 convolution of stride 2 with a border of one zero: ``(B, H, W, I) -> (B, H/2, W/2, O)``."""
    _, _, width_in, width_out = kernel.shape
    blocks = kernel.reshape(2, 2, 2, 2, width_in, width_out).transpose(0, 2, 1, 3, 4, 5)
    x = space_to_depth(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    return conv(x, blocks.reshape(2, 2, 4 * width_in, width_out), 0)


def up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transpose of `down`: ``(B, H, W, I) -> (B, 2H, 2W, O)``, PyTorch's ``ConvTranspose2d(I, O, 4, 2, 1)``.

    Input pixel p adds ``x[p] @ kernel[a]`` to output pixel ``2 p + a - 1``, for a from 0 to 3 in each direction.
    """
    _, _, width_in, width_out = kernel.shape
    blocks = kernel.reshape(2, 2, 2, 2, width_in, width_out)[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    return depth_to_space(conv(x, blocks.reshape(2, 2, width_in, 4 * width_out), 1))[:, 1:-1, 1:-1]


def space_to_depth(x: jax.Array) -> jax.Array:
    """Every 2 x 2 block of pixels into one: ``(B, H, W, C) -> (B, H/2, W/2, 4C)``."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)


def depth_to_space(x: jax.Array) -> jax.Array:
    """Inverse of `space_to_depth`."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)
