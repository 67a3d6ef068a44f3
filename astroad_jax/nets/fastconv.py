"""Convolutions that differentiate as fast as they run, on CPU too: `conv` at full size, `down` and its transpose `up`.

XLA's CPU back end has a fast path for plain convolutions and for matrix products, and none for most of what
differentiation makes of them: inside a loop an input gradient keeps the kernel's flip folded into the operation and misses
the fast path, and the gradients of strided and transposed convolutions, and those with respect to any kernel, never had one.
Here every derivative is again one of the three, or a few matrix products: `conv` goes back through itself with the kernel
flipped and laid out, `down` through `up` and `up` through `down`. Nothing is less than exact, and all of it can be
differentiated again (a gradient penalty is).

Images are ``(B, H, W, C)``, kernels ``(height, width, in, out)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal

Kept = tuple[jax.Array | None, jax.Array]
LAYOUT = ("NHWC", "HWIO", "NHWC")
FEW = 4  # channels on one side up to which moving pixels costs less than a convolution's own ways (CPU, measured)
SMALL = 8  # pixels a side, likewise
PIECE = 1 << 18  # numbers of which a kernel's gradient sums at a time on CPU: a megabyte, which stays in the cache


def _plain(x: jax.Array, kernel: jax.Array, pad: int, stride: int = 1) -> jax.Array:
    window, padding = (stride, stride), ((pad, pad), (pad, pad))
    return jax.lax.conv_general_dilated(x, kernel, window, padding, dimension_numbers=LAYOUT)


def _on_cpu(x: jax.Array, kernel: jax.Array, pad: int) -> jax.Array:
    """The same sums in the form that XLA's CPU back end is fastest at."""
    size, _, width_in, width_out = kernel.shape
    height, width = (n + 2 * pad - size + 1 for n in x.shape[1:3])
    if width_in <= FEW:  # all that a kernel sees side by side, and one matrix product
        return jnp.concatenate(_views(_bordered(x, pad), size, height, width), -1) @ kernel.reshape(-1, width_out)
    if width_out <= FEW:  # one matrix product for all kernel entries, then the sum of its shifted parts
        spread = x @ kernel.transpose(2, 0, 1, 3).reshape(width_in, -1)
        parts = jnp.split(_bordered(spread, pad), size * size, axis=-1)
        places = [(i, j) for i in range(size) for j in range(size)]
        return sum(part[:, i : i + height, j : j + width] for part, (i, j) in zip(parts, places))
    if 2 * pad == size - 1 and height >= 32:  # one row more, cut off again: measured 1.4 times as fast at 64 x 64 x 32
        padding = ((pad, pad + 1), (pad, pad))
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)[:, :height]
    return _plain(x, kernel, pad)


def _bordered(x: jax.Array, pad: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def _views(x: jax.Array, size: int, height: int, width: int) -> list[jax.Array]:
    """What each entry of a kernel sees of an image that has its border already."""
    return [x[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]


def _in_pieces(by_kernel: Callable[..., jax.Array], x: jax.Array, gradient: jax.Array) -> jax.Array:
    """A kernel's gradient, summed over as many images at a time as stay in the cache: measured up to 4 times as fast.

    Not with several devices, over which the images may be spread: a scan over them would have every device gather all.
    """
    most = max(1, PIECE // max(1, *(math.prod(images.shape[1:]) for images in (x, gradient))))
    if most >= len(x) or jax.device_count() > 1:
        return by_kernel(x, gradient)
    count = next(n for n in range(most, 0, -1) if len(x) % n == 0)
    pieces = [images.reshape(-1, count, *images.shape[1:]) for images in (x, gradient)]
    shape = jax.eval_shape(by_kernel, *(images[0] for images in pieces)).shape
    add = lambda total, piece: (total + by_kernel(*piece), None)  # noqa: E731
    zero = jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.scan(add, zero, tuple(pieces))[0].astype(x.dtype)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum over images and pixels of the outer products of their channels: ``(channels of a, channels of b)``."""
    flat = (a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
    return jax.lax.dot_general(*flat, (((0,), (0,)), ((), ())))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, pad: int) -> jax.Array:
    """Convolution of stride 1 with `pad` rows and columns of zeros on every side: ``(B, H + 2 pad - k + 1, ..., out)``."""
    return jax.lax.platform_dependent(x, kernel, cpu=partial(_on_cpu, pad=pad), default=partial(_plain, pad=pad))


def _kept(x: CustomVJPPrimal, kernel: CustomVJPPrimal) -> Kept:
    """What going back takes: no image where the kernel's gradient is not asked for, as in a search with fixed networks.

    XLA would drop that gradient anyway, but JAX cannot export it for a symbolic number of objects.
    """
    return (x.value if kernel.perturbed else None), kernel.value


def _conv_forward(x: CustomVJPPrimal, kernel: CustomVJPPrimal, pad: int) -> tuple[jax.Array, Kept]:
    return conv(x.value, kernel.value, pad), _kept(x, kernel)


def _conv_backward(pad: int, kept: Kept, gradient: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    x, kernel = kept
    size = kernel.shape[0]
    # The barrier keeps the flip from being folded back into the convolution.
    flipped = jax.lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    by_x = conv(gradient, flipped, size - 1 - pad)
    if x is None:
        return by_x, None
    by_kernel = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=partial(_in_pieces, partial(_by_kernel_on_cpu, size=size, pad=pad)),
        default=partial(_by_kernel_plain, size=size, pad=pad),
    )
    return by_x, by_kernel


def _by_kernel_plain(x: jax.Array, gradient: jax.Array, size: int, pad: int, stride: int = 1) -> jax.Array:
    kernel = jnp.zeros((size, size, x.shape[-1], gradient.shape[-1]), x.dtype)
    (found,) = jax.linear_transpose(lambda k: _plain(x, k, pad, stride), kernel)(gradient)
    return found


def _by_kernel_on_cpu(x: jax.Array, gradient: jax.Array, size: int, pad: int) -> jax.Array:
    """One matrix product for every kernel entry; of the two images the one with fewer channels is moved about."""
    moved = gradient if gradient.shape[-1] < x.shape[-1] else x
    still, back = (x, size - 1 - pad) if moved is gradient else (gradient, pad)
    height, width = still.shape[1:3]
    views = _views(_bordered(moved, back), size, height, width)
    if still is x:
        products = [_product(x, view) for view in reversed(views)]
    else:
        products = [_product(view, gradient) for view in views]
    return jnp.stack(products).reshape(size, size, x.shape[-1], gradient.shape[-1])


conv.defvjp(_conv_forward, _conv_backward, symbolic_zeros=True)


@jax.custom_vjp
def down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """4 x 4 convolution of stride 2 with a border of one zero: ``(B, H, W, I) -> (B, H/2, W/2, O)``."""
    return _plain(x, kernel, 1, 2)


def _down_forward(x: CustomVJPPrimal, kernel: CustomVJPPrimal) -> tuple[jax.Array, Kept]:
    return down(x.value, kernel.value), _kept(x, kernel)


def _down_backward(kept: Kept, gradient: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    x, kernel = kept
    return up(gradient, kernel.swapaxes(2, 3)), None if x is None else _by_strided_kernel(x, gradient)


def _by_strided_kernel(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Gradient of `down` with respect to its kernel, ``(4, 4, I, O)``, for images before and gradients after it."""
    plain = partial(_by_kernel_plain, size=4, pad=1, stride=2)
    return jax.lax.platform_dependent(x, gradient, cpu=partial(_in_pieces, _by_strided_kernel_on_cpu), default=plain)


def _by_strided_kernel_on_cpu(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Eight matrix products: two columns of the kernel at a time, neighbouring pixels being neighbours in memory."""
    count, size, _, channels = x.shape
    height, width = gradient.shape[1:3]
    pairs = _bordered(x, 1).reshape(count, size // 2 + 1, 2, -1, 2 * channels)
    views = [pairs[:, a : a + height, row, b : b + width] for a in (0, 1) for row in (0, 1) for b in (0, 1)]
    return jnp.stack([_product(view, gradient) for view in views]).reshape(4, 4, channels, gradient.shape[-1])


down.defvjp(_down_forward, _down_backward, symbolic_zeros=True)


@jax.custom_vjp
def up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transpose of `down`: ``(B, H, W, I) -> (B, 2H, 2W, O)``, PyTorch's ``ConvTranspose2d(I, O, 4, 2, 1)``.

    Input pixel p adds ``x[p] @ kernel[a]`` to output pixel ``2 p + a - 1``, for a from 0 to 3 in each direction.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_up_on_cpu, default=_up_by_blocks)


def _up_on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return (_up_by_product if x.shape[1] <= SMALL or kernel.shape[-1] <= FEW else _up_by_blocks)(x, kernel)


def _up_by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One matrix product for all kernel entries, then the sum of its shifted parts."""
    count, height, width, width_in = x.shape
    width_out = kernel.shape[-1]
    spread = x @ kernel.transpose(2, 0, 1, 3).reshape(width_in, -1)
    spread = spread.reshape(count, height, width, 2, 2, 2, 2, width_out)  # a = 2 (row block) + row, and so for columns
    total = 0
    for a in (0, 1):
        for b in (0, 1):
            part = spread[:, :, :, a, :, b].transpose(0, 1, 3, 2, 4, 5).reshape(count, 2 * height, 2 * width, width_out)
            total = total + jnp.pad(part, ((0, 0), (2 * a, 2 - 2 * a), (2 * b, 2 - 2 * b), (0, 0)))
    return total[:, 1:-1, 1:-1]


def _up_by_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 2 x 2 convolution of stride 1 to four times the channels, which become the pixels between."""
    _, _, width_in, width_out = kernel.shape
    blocks = kernel.reshape(2, 2, 2, 2, width_in, width_out)[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    return depth_to_space(_plain(x, blocks.reshape(2, 2, width_in, 4 * width_out), 1))[:, 1:-1, 1:-1]


def _up_forward(x: CustomVJPPrimal, kernel: CustomVJPPrimal) -> tuple[jax.Array, Kept]:
    return up(x.value, kernel.value), _kept(x, kernel)


def _up_backward(kept: Kept, gradient: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    x, kernel = kept
    by_kernel = None if x is None else _by_strided_kernel(gradient, x).swapaxes(2, 3)
    return down(gradient, kernel.swapaxes(2, 3)), by_kernel


up.defvjp(_up_forward, _up_backward, symbolic_zeros=True)


def depth_to_space(x: jax.Array) -> jax.Array:
    """Channels into pixels: ``(B, H, W, 4C) -> (B, 2H, 2W, C)``, every pixel into 2 x 2."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)
