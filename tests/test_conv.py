"""Convolutions in their fast form are the plain ones, to the second derivative; the networks have the papers' sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage

from astroad_jax.nets import conv2d, fastconv

LAYOUT = ("NHWC", "HWIO", "NHWC")


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def plain(x, kernel, stride, pad, dilation=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((pad, pad), (pad, pad)), (dilation, dilation), dimension_numbers=LAYOUT
    )


FORMS = {
    "1": (lambda x, k: fastconv.conv(x, k, 0), lambda x, k: plain(x, k, 1, 0), 1),
    "2, no border": (lambda x, k: fastconv.conv(x, k, 0), lambda x, k: plain(x, k, 1, 0), 2),
    "2, border": (lambda x, k: fastconv.conv(x, k, 1), lambda x, k: plain(x, k, 1, 1), 2),
    "3": (lambda x, k: fastconv.conv(x, k, 1), lambda x, k: plain(x, k, 1, 1), 3),
    "5": (lambda x, k: fastconv.conv(x, k, 2), lambda x, k: plain(x, k, 1, 2), 5),
    "down": (fastconv.down, lambda x, k: plain(x, k, 2, 1), 4),
    # A transposed convolution is one over the image with zeros between its pixels, the kernel turned round.
    "up": (fastconv.up, lambda x, k: plain(x, k[::-1, ::-1], 1, 2, dilation=2), 4),
}


@pytest.mark.parametrize(
    ("side", "width_in", "width_out", "piece"),
    [(8, 3, 5, fastconv.PIECE), (8, 5, 1, fastconv.PIECE), (32, 5, 6, fastconv.PIECE), (8, 5, 6, 8 * 8 * 6)],
)
@pytest.mark.parametrize("form", list(FORMS))
def test_fast_forms_are_the_plain_ones(form, side, width_in, width_out, piece, monkeypatch):
    monkeypatch.setattr(fastconv, "PIECE", piece)
    fast, reference, size = FORMS[form]
    x, kernel = arrays((2, side, side, width_in), (size, size, width_in, width_out))
    np.testing.assert_allclose(fast(x, kernel), reference(x, kernel), atol=1e-4)

    def penalty(function):
        """A gradient penalty: what it differentiates is a gradient already."""

        def value(x, kernel):
            slope = jax.grad(lambda x: jnp.sum(jnp.sin(function(x, kernel))))(x)
            return jnp.sum((jnp.sqrt(jnp.sum(slope**2, axis=(1, 2, 3)) + 1e-6) - 1.0) ** 2)

        return jax.grad(value, argnums=(0, 1))(x, kernel)

    for found, expected in zip(penalty(fast), penalty(reference)):
        np.testing.assert_allclose(found, expected, atol=2e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("count", [1, 5, 6])
@pytest.mark.parametrize("form", ["down", "up", "3"])
def test_kernel_gradients_in_pieces_are_those_of_the_whole(form, count, monkeypatch):
    fast, _, size = FORMS[form]
    x, kernel = arrays((count, 8, 8, 3), (size, size, 3, 5))

    def found():
        by_kernel = jax.grad(lambda kernel: jnp.sum(jnp.sin(fast(x, kernel))))
        return by_kernel(kernel), "scan[" in str(jax.make_jaxpr(by_kernel)(kernel))

    whole, in_pieces = found()
    monkeypatch.setattr(fastconv, "PIECE", 2 * 8 * 8 * 5)
    summed, now_in_pieces = found()
    np.testing.assert_allclose(summed, whole, rtol=1e-4, atol=1e-4)
    assert (in_pieces, now_in_pieces) == (False, count > 1)


@pytest.mark.parametrize(("images", "devices", "cut"), [(4, 1, True), (4, 2, False), (0, 1, False)])
def test_kernel_gradients_are_in_pieces_where_no_device_needs_anothers_images(images, devices, cut, monkeypatch):
    monkeypatch.setattr(fastconv, "PIECE", 8 * 8 * 5)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    x, kernel = arrays((images, 8, 8, 3), (3, 3, 3, 5))
    gradient = jax.make_jaxpr(jax.grad(lambda kernel: jnp.sum(fastconv.conv(x, kernel, 1))))(kernel)
    assert ("scan[" in str(gradient)) == cut


@pytest.mark.parametrize("form", ["down", "up", "3"])
def test_gradients_by_differences(form):
    fast, _, size = FORMS[form]
    x, kernel = arrays((1, 4, 4, 2), (size, size, 2, 2))
    check_grads(
        lambda x, kernel: jnp.sum(jnp.tanh(fast(x, kernel))), (x, kernel), order=2, modes=["rev"], atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize("form", list(FORMS))
def test_one_image_at_a_time_is_all_at_once(form):
    fast, _, size = FORMS[form]
    x, kernel = arrays((3, 8, 8, 3), (size, size, 3, 5))
    one = jax.vmap(lambda image: fast(image[None], kernel)[0])(x)
    np.testing.assert_allclose(one, fast(x, kernel), atol=1e-5)


@pytest.mark.parametrize("size", [8, 16, 64, 256])
def test_networks_fit_any_power_of_two(size):
    k = conv2d.levels(size)
    widths = tuple(4 * 2 ** min(i, 2) for i in range(k))
    generator = conv2d.Generator(3, (8, *reversed(widths)), refine=(4,))
    critic = conv2d.Critic(widths, last=8, dense=(6,))
    encoder = conv2d.Encoder(5, widths, norm="batch", output="tanh")
    key, image = jax.random.key(0), jnp.zeros((2, size, size, 3))
    assert jax.eval_shape(lambda: generator.init_with_output(key, jnp.zeros((2, 5)))[0]).shape == image.shape
    assert jax.eval_shape(lambda: critic.init_with_output(key, image)[0]).shape == (2,)
    assert jax.eval_shape(lambda: encoder.init_with_output(key, image)[0]).shape == (2, 5)


@pytest.mark.parametrize("size", [4, 10, 48, 63, 65])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=r"4 \* 2\^k"):
        conv2d.levels(size)


def test_layers_of_the_mergers_paper():
    """Paper 002 at 64 x 64 x 1: the generator has one dense layer and six convolutions, the critic five and two."""

    def layers(module, x):
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        shapes = [leaf.shape for leaf in jax.tree.leaves(variables["params"]) if len(leaf.shape) > 1]
        return sum(len(shape) == 4 for shape in shapes), sum(len(shape) == 2 for shape in shapes)

    assert layers(conv2d.Generator(1, (512, 256, 128, 64, 32), refine=(32,)), jnp.zeros((1, 100))) == (6, 1)
    assert layers(conv2d.Critic((32, 64, 128, 256), last=512), jnp.zeros((1, 64, 64, 1))) == (5, 2)


def test_blurring_is_a_weighted_mean_of_neighbours():
    (x,) = arrays((2, 6, 5, 3))
    expected = x
    for axis in (1, 2):
        expected = ndimage.correlate1d(expected, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    np.testing.assert_allclose(conv2d.blurred(jnp.asarray(x)), expected, atol=1e-6)
    check_grads(lambda x: jnp.sum(jnp.tanh(conv2d.blurred(x))), (x,), order=2, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_a_generator_that_blurs_makes_smoother_images():
    z = arrays((20, 5))[0]
    rough = []
    for blur in (False, True):
        generator = conv2d.Generator(1, (8, 8, 8, 8), output="none", blur=blur)
        images = generator.apply(generator.init(jax.random.key(0), z), z)
        rough.append(jnp.std(jnp.diff(images, axis=1)) / jnp.std(images))
    assert rough[1] < 0.7 * rough[0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_what_comes_out_is_float32(dtype):
    critic, generator = conv2d.Critic((4,), dtype=dtype), conv2d.Generator(1, (8, 4), dtype=dtype)
    x, z = arrays((2, 8, 8, 1), (2, 3))
    value, variables = critic.init_with_output(jax.random.key(0), x)
    image, made = generator.init_with_output(jax.random.key(0), z)
    assert (value.dtype, image.dtype) == (jnp.float32, jnp.float32)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, made)))
    features = critic.apply(variables, x, method="features")
    assert (features.shape, features.dtype) == ((2, 4 * 4 * 4), jnp.float32)
    assert float(jnp.abs(image).max()) <= 1


def test_normalised_layers_keep_running_averages():
    encoder = conv2d.Encoder(3, (4, 8), norm="batch")
    (x,) = arrays((16, 16, 16, 1))
    variables = encoder.init(jax.random.key(0), x)
    _, updated = encoder.apply(variables, x, train=True, mutable=["batch_stats"])
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), variables["batch_stats"], updated["batch_stats"])
    assert all(jax.tree.leaves(moved))
    first = encoder.apply(variables, x[:1])
    np.testing.assert_allclose(encoder.apply(variables, x)[:1], first, atol=1e-5)  # scoring uses the averages alone
