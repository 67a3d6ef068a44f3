"""The scoring path's own parts: ids, row counts, placing."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from astroad_jax.engine import score
from astroad_jax.engine.ids import id_bits
from astroad_jax.engine.train import pick
from tests import toy
from tests.conftest import ROOT


def test_integers_are_their_own_bits_and_strings_hash():
    ids = np.array([0, 1, -1, 2**62 + 1], np.int64)
    bits = id_bits(ids)
    np.testing.assert_array_equal(bits.astype(np.uint64) @ np.array([1, 2**32], np.uint64), ids.astype(np.uint64))
    names = id_bits(np.array(["007", "07", "7"]))
    assert names.shape == (3, 2)
    assert len(np.unique(names, axis=0)) == 3
    np.testing.assert_array_equal(id_bits(np.array(["007"], "U30"))[0], names[0])


def ladder(wrong: set[int], most: int = 4096) -> score._Ladder:
    """Row counts of a function whose last bits are off for some of them."""

    def run(key, state, x, bits):
        del key, state, bits
        return {"score": x.sum(1) + (np.float32(1e-3) if len(x) in wrong else np.float32(0))}

    return score._Ladder(run, jax.random.key(0), 1, most)


@pytest.mark.parametrize(
    ("left", "wrong", "chosen"),
    [
        (1, set(), 1),
        (5, set(), 8),
        (300, set(), 480),
        (500, set(), 480),
        (1000, set(), 960),
        (4000, set(), 3840),
        (100_000, set(), 3840),
        (1, {1, 2, 4}, 8),
        (5, {8, 16, 32, 64, 128, 256}, 480),
        (4000, {3840}, 480),
        (1000, {960}, 480),
    ],
)
def test_a_row_count_that_disagrees_is_passed_over(left, wrong, chosen):
    x = np.zeros((1, 3), np.float32)
    assert ladder(wrong).rows(None, x)(left) == chosen


def test_agreement_is_looked_at_once():
    steps = ladder({1})
    x = np.zeros((1, 3), np.float32)
    assert steps.rows(None, x)(1) == 2
    calls = []
    steps.run = lambda *args: calls.append(args)
    assert steps.rows(None, x)(1) == 2
    assert not calls


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16])
def test_disagreement_shows_on_whole_numbers_too(dtype):
    """Random rows in [-1, 1] would all be 0 as integers, and no row count could be found out."""
    steps = ladder(set())
    steps.run = lambda key, state, x, bits: {"score": x.astype(np.float32).sum(1) * np.float32(1 + 1e-6 * (len(x) == 1))}
    assert steps.rows(None, np.zeros((1, 3), dtype))(1) == 2


def test_a_state_that_can_show_nothing_settles_nothing():
    """NaN everywhere, or one value, agrees with anything: the next state is looked at anew, the same one is not."""
    steps, calls = ladder(set()), []

    def run(key, state, x, bits):
        calls.append(len(x))
        return {"score": np.full(len(x), state) if state != 1 else x.sum(1), "nearest_class": np.zeros(len(x), int)}

    steps.run = run
    x = np.zeros((1, 3), np.float32)
    for dull in (np.nan, 0.5):
        assert steps.rows(dull, x)(1) == steps.reference((3,))
        before = len(calls)
        assert steps.rows(dull, x)(1) == steps.reference((3,))
        assert len(calls) == before
    assert steps.rows(1, x)(1) == 1


@pytest.mark.parametrize("name", ["vae", "vae-ivar", "mcdsvdd", "conv_autoencoder"])
def test_a_row_has_the_same_bits_wherever_it_stands(name):
    batches = toy.feed(name)
    made, state = toy.method(name, batches), None
    for stage in made.stages:
        state = jax.jit(stage.init)(jax.random.key(0), pick(batches.data, next(batches.batches(0))), state)
    if name == "mcdsvdd":  # untrained, no class has a centre yet
        state = state._replace(known=np.ones_like(state.known))
    x = 30 * toy.shaped(name, toy.mixture(3, seed=4)[0])  # far out, where every last bit shows
    program = jax.jit(score.scores_of_rows(made), compiler_options=score._compiler_options())
    scorer, count = score.make_scorer(made), score.reference_rows("cpu", x[0].size)
    for row in x:
        found = program(jax.random.key(0), state, np.stack([row] * count), np.zeros((count, 2), np.uint32))
        assert np.isfinite(found["score"]).all()
        one = {part: np.asarray(values)[0].tobytes() for part, values in found.items()}
        for rows in (count, 512, 1000):
            given = found if rows == count else scorer(state, np.stack([row] * rows), np.zeros(rows, int))
            for part, values in given.items():
                assert {value.tobytes() for value in np.asarray(values)} == {one[part]}, (part, rows)


def test_no_rows_at_all():
    made, fitted = toy.train("autoencoder", epochs=1)
    empty = score.make_scorer(made)(fitted.state, np.zeros((0, toy.WIDTH), np.float32), np.zeros(0, np.int64))
    assert empty["score"].shape == (0,)


def test_a_state_of_host_arrays_scores_alike():
    made, fitted = toy.train("autoencoder", epochs=1)
    x, _ = toy.mixture(10)
    scorer = score.make_scorer(made)
    first = scorer(fitted.state, x, np.arange(10))["score"]
    np.testing.assert_array_equal(scorer(jax.device_get(fitted.state), x, np.arange(10))["score"], first)


AS_USERS_COMPILE = """
import jax
import numpy as np
from astroad_jax.engine.score import make_scorer
from astroad_jax.engine.train import pick
from tests import toy

for name in ("mcdsvdd", "vae-ivar", "conv_autoencoder", "fanogan"):
    batches = toy.feed(name)
    made, state = toy.method(name, batches), None
    for stage in made.stages:
        batch = pick(batches.data, next(batches.batches(0)))
        state = jax.jit(stage.init)(jax.random.key(0), batch, state)
    x, ids = toy.shaped(name, toy.mixture(203, seed=4)[0]), np.arange(203) + 2**60
    expected = make_scorer(made, batch_size=64)(state, x, ids)
    for batch_size in (7, 4096):
        order = np.random.default_rng(batch_size).permutation(203)
        found = make_scorer(made, batch_size=batch_size)(state, x[order], ids[order])
        for part, values in expected.items():
            np.testing.assert_array_equal(found[part], values[order], err_msg=f"{name} {part}")
"""


@pytest.mark.slow
def test_as_users_compile():
    """The suite compiles with less effort; this is what a user's machine does."""
    env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", AS_USERS_COMPILE], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("shape", "rows", "accelerator"),
    [
        ((3,), 480, 4096),
        ((64, 64, 3), 480, 4096),
        ((256, 256, 3), 336, 256),
        ((424, 424, 3), 96, 64),
        ((1024, 1024, 3), 12, 16),
        ((10_000, 10_000), 12, 8),
    ],
)
def test_of_large_objects_few_make_a_block(shape, rows, accelerator):
    """A block of 480 large images would take gigabytes."""
    assert score.reference_rows("cpu", int(np.prod(shape))) == rows
    assert score.reference_rows("cuda", int(np.prod(shape))) == accelerator
    steps = ladder(set(), most=4096)
    steps._usable = lambda state, kind, size: True
    largest = steps.rows(None, np.broadcast_to(np.float32(0), (1, *shape)))(10**6)
    fits = largest * np.prod(shape) <= score.LARGEST
    assert largest == 12 if not fits else largest == 3840 or 2 * largest * np.prod(shape) > score.LARGEST


@pytest.mark.parametrize("count", [1, 479, 481, 1441, 5000])
def test_blocks_take_every_row_once(count):
    steps = ladder(set())
    x = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    blocks = [
        (own[:length], len(own)) for (own, _), length in score._blocks(x, id_bits(np.arange(count)), steps.rows(None, x))
    ]
    np.testing.assert_array_equal(np.concatenate([own for own, _ in blocks]), x)
    assert {size for _, size in blocks} <= {1 << k for k in range(9)} | {480, 960, 1920, 3840}


def test_flags_do_not_tell_programs_apart():
    """Scores that are all alike show no difference, however their flags vary."""
    steps = ladder(set())
    steps.run = lambda key, state, x, bits: {
        "score": np.zeros(len(x), np.float32),
        "flags": np.arange(len(x), dtype=np.uint32),
    }
    assert steps.rows("state", np.zeros((1, 3), np.float32))(1) == steps.reference((3,))
