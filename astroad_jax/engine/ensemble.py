"""Two ways of turning methods into methods: many members trained as one, and the best state kept.

Small networks leave a device idle between dispatches. All classes and seeds of a protocol trained side by side, as one
method whose every array has a leading member axis, fill it; the loop and the checkpoints see one method as before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from astroad_jax.types import Batch, Example, Key, Method, Metrics, Scores, Search, Stage, State


def stack(method: Method) -> Method:
    """One method that trains independent copies of another, one for every key it is given (``fit(..., seed=[...])``).

    Every state array, every batch column (``(members, B, ...)``) and every metric has the member axis in front. Member m
    draws what it would draw if it were trained alone with its key. Scores, embeddings and reconstructions of an object
    have the member axis too; use `member` to take one copy's state out.
    """

    def stacked(stage: Stage) -> Stage:
        def init(key: Key, batch: Batch, previous: State | None) -> State:
            return jax.vmap(stage.init)(key, batch, previous)

        def step(key: Key, state: State, batch: Batch) -> tuple[State, Metrics]:
            return jax.vmap(stage.step)(key, state, batch)

        validate = None if stage.validate is None else jax.vmap(stage.validate)
        return stage._replace(init=init, step=step, validate=validate, watch=None)

    def score(key: Key, state: State, example: Example) -> Scores:
        return jax.vmap(lambda s: method.score(key, s, example))(state)

    def embed(state: State, example: Example) -> jax.Array:
        return jax.vmap(lambda s: method.embed(s, example))(state)

    def reconstruct(key: Key, state: State, example: Example) -> jax.Array:
        return jax.vmap(lambda s: method.reconstruct(key, s, example))(state)

    stages = tuple(stacked(stage) for stage in method.stages)
    return Method(stages, score, embed, reconstruct if method.reconstruct else None)


def member(state: State, m: int) -> State:
    """State of one member of a stack."""
    return jax.tree.map(lambda leaf: leaf[m], state)


class Best(NamedTuple):
    """A state under training, the best one seen, and how good it was."""

    state: State
    best: State
    value: jax.Array  # () or (members,): what `Stage.validate` gave for `best`
    at: jax.Array  # step of `best`
    step: jax.Array  # (), int32


def keep_best(method: Method, every: int) -> Method:
    """The same method with every stage that can be validated ending in its best state instead of its last.

    Every `every` steps and at the end `Stage.validate` is evaluated on the batch's ``valid`` columns (held-out rows, all of
    them), and the state is kept where it is the lowest so far. Applied to a stack, each member keeps its own best.
    """

    def selecting(stage: Stage) -> Stage:
        plain = stage.validate is None

        def init(key: Key, batch: Batch, previous: Any) -> Any:
            before = previous.best if isinstance(previous, Best) else previous
            state = stage.init(key, batch, before)
            if plain:
                return state
            value = jnp.full_like(stage.validate(state, batch["valid"]), jnp.inf)
            return Best(state, state, value, jnp.zeros(value.shape, jnp.int32), jnp.zeros((), jnp.int32))

        def step(key: Key, held: Any, batch: Batch) -> tuple[Any, Metrics]:
            if plain:
                return stage.step(key, held, batch)
            state, metrics = stage.step(key, held.state, batch)
            held = held._replace(state=state, step=held.step + 1)
            due = (held.step % every == 0) | (held.step == stage.num_steps)
            return jax.lax.cond(due, lambda h: _select(stage, h, batch["valid"]), lambda h: h, held), metrics

        return stage._replace(init=init, step=step, held_out=not plain)

    return method._replace(
        stages=tuple(selecting(stage) for stage in method.stages),
        score=_score_of_best(method.score),
        embed=lambda state, example: method.embed(best_of(state), example),
        reconstruct=None
        if method.reconstruct is None
        else lambda key, state, example: method.reconstruct(key, best_of(state), example),
        terms=None
        if method.terms is None
        else lambda key, state, example, typical: method.terms(key, best_of(state), example, typical),
    )


def _score_of_best(score: Any) -> Any:
    """A score, or a search for one, that looks at the best state."""
    if not isinstance(score, Search):
        return lambda key, state, example: score(key, best_of(state), example)
    again, terms = score.rebuild, score.terms
    return score._replace(
        init=lambda key, state, example: score.init(key, best_of(state), example),
        step=lambda state, example, carry: score.step(best_of(state), example, carry),
        finish=lambda state, example, carry: score.finish(best_of(state), example, carry),
        rebuild=None if again is None else lambda state, example, carry: again(best_of(state), example, carry),
        terms=None if terms is None else lambda state, example, rebuilt: terms(best_of(state), example, rebuilt),
    )


def best_of(state: Any) -> State:
    """The state that a method under `keep_best` scores with."""
    return state.best if isinstance(state, Best) else state


def _select(stage: Stage, held: Best, valid: Batch) -> Best:
    """Take the present state over where it is better."""
    value = stage.validate(held.state, valid)
    better = value < held.value

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)

    best = jax.tree.map(choose, held.state, held.best)
    return held._replace(best=best, value=choose(value, held.value), at=jnp.where(better, held.step, held.at))
