"""The search engine: what it finds for an object is the object's own, whatever shares the device with it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astroad_jax.engine import probes
from astroad_jax.engine import search as search_engine
from astroad_jax.engine.ensemble import Best, keep_best
from astroad_jax.engine.search import make_searcher
from astroad_jax.errors import DataError
from astroad_jax.types import Method, Search

STEPS = 60


class Carry(NamedTuple):
    """A point on its way to the object, and how far it is."""

    z: jax.Array
    distance: jax.Array


def toy(num_steps: int = STEPS) -> Search:
    """Descend to the object from a random point, at a speed that differs from object to object."""

    def measure(example, z):
        return Carry(z, jnp.sum((z - example["x"]) ** 2))

    def init(key, state, example):
        return measure(example, state * jax.random.normal(key, example["x"].shape))

    def step(state, example, carry):
        rate = 0.02 + 0.4 / (1.0 + jnp.abs(example["x"][0]))
        return measure(example, carry.z - rate * (carry.z - example["x"]))

    def finish(state, example, carry):
        return {"score": carry.distance, "first": carry.z[0]}

    return Search(init, step, finish, lambda carry: carry.distance < 1e-3, num_steps)


def objects(count: int = 37):
    rng = np.random.default_rng(0)
    return (10 * rng.normal(size=(count, 3))).astype(np.float32), rng.integers(0, 2**60, count)


def found(x, ids, **options):
    return make_searcher(toy(), **{"slots": 8, "steps_per_call": 4, **options})(jnp.float32(2.0), x, ids)


def same(one, other):
    assert one.keys() == other.keys() == {"score", "first", "iterations"}
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("options", [{"refill": 1.0}, {"refill": 0.01}, {"steps_per_call": 1}, {"steps_per_call": 7}])
def test_continuous_batching_finds_what_the_plain_search_finds(options):
    same(found(*objects(), **options), found(*objects()))


def test_each_object_ends_at_its_own_time():
    x, ids = objects()
    result = found(x, ids)
    assert len(np.unique(result["iterations"])) > 5
    assert result["iterations"].max() <= STEPS
    early = result["iterations"] < STEPS
    assert early.any()
    assert (result["score"][early] < 1e-3).all()
    same(result, found(x, ids, refill=1.0, steps_per_call=STEPS))


def test_neighbours_and_order_do_not_matter():
    x, ids = objects()
    whole = found(x, ids)
    order = np.random.default_rng(1).permutation(len(x))
    shuffled = found(x[order], ids[order])
    same({name: values[order] for name, values in whole.items()}, shuffled)
    for row in (0, 17, 36):
        same({name: values[row : row + 1] for name, values in whole.items()}, found(x[row : row + 1], ids[row : row + 1]))


def test_the_draw_belongs_to_the_id():
    x, ids = objects(4)
    twins = np.repeat(x[:1], 4, axis=0)
    assert len(np.unique(found(twins, ids)["first"])) > 1
    assert len(np.unique(found(twins, np.repeat(ids[:1], 4))["first"])) == 1


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_any_number_of_objects(count):
    x, ids = objects(9)
    result = found(x[:count], ids[:count])
    whole = found(x, ids)
    same({name: values[:count] for name, values in whole.items()}, result)


@pytest.mark.parametrize("count", [1, 3, 8, 12])
def test_few_objects_get_few_slots(count, monkeypatch):
    x, ids = objects(12)
    held = []
    original = search_engine._Run.__init__

    def noting(self, programs, key, state, mesh, slots, refill):
        held.append(slots)
        original(self, programs, key, state, mesh, slots, refill)

    monkeypatch.setattr(search_engine._Run, "__init__", noting)
    result = found(x[:count], ids[:count], slots=16)
    assert held[-1] == {1: 1, 3: 8, 8: 8, 12: 16}[count]
    monkeypatch.setattr(search_engine, "FEWER", ())
    same(result, found(x[:count], ids[:count], slots=16))


def test_slots_that_change_the_bits_are_passed_over(monkeypatch):
    monkeypatch.setattr(search_engine, "_same_bits", lambda start, trial, size: size != 1)
    x, ids = objects(1)
    same(found(x, ids, slots=16), found(x, ids))


@pytest.mark.parametrize(("few", "agree"), [(2.0, True), (0.75, False)])
def test_a_difference_that_few_objects_show_and_no_output_yet_is_found(few, agree):
    """In what is carried of those of the random objects, not the first, whose first number exceeds `few`."""

    class Run:
        def __init__(self, slots, refill):
            self.slots = slots

        def one_call(self, x, bits):
            off = np.float32(1e-6) * (x[:, :1] > few) * (self.slots == 1)
            self.carry = x + off.astype(np.float32)
            return {"score": x.sum(1)}

        def leaves(self):
            return [self.carry]

    trial = probes.rows(None, (16, 3), np.dtype(np.float32))
    assert search_engine._same_bits(Run, trial, 1) is agree


def test_no_iteration_at_all():
    x, ids = objects(3)
    result = make_searcher(toy(0), slots=2)(jnp.float32(0.0), x, ids)
    np.testing.assert_allclose(result["score"], (x**2).sum(1), rtol=1e-6)
    assert not result["iterations"].any()


@pytest.mark.parametrize("options", [{"slots": -1}, {"steps_per_call": 0}, {"refill": 1.5}, {"refill": -0.1}])
def test_options_that_would_never_end_are_refused(options):
    with pytest.raises(ValueError, match="slots"):
        make_searcher(toy(), **options)


def test_objects_without_ids_of_their_own():
    x, ids = objects(4)
    with pytest.raises(DataError, match="differ in number"):
        found(x, ids[:3])


def test_a_state_that_shows_no_difference_decides_nothing():
    x, ids = objects(2)
    searcher = make_searcher(toy(), slots=16, steps_per_call=4)
    assert np.isnan(searcher(jnp.float32(np.nan), x, ids)["score"]).all()
    same(searcher(jnp.float32(2.0), x, ids), found(x, ids))


def test_a_search_scores_with_the_best_state():
    x, ids = objects(3)
    plain = toy()
    method = Method((), plain, lambda state, example: example["x"])
    kept = Best(jnp.float32(9.0), jnp.float32(2.0), *[jnp.zeros(())] * 3)
    best = make_searcher(keep_best(method, 1).score, slots=8, steps_per_call=4)(kept, x, ids)
    same(best, found(x, ids))
