"""The contracts: what a method is, and what the loop and the scorer may ask of it.

A method is a value. Everything it does is a pure function of keys, states and dictionaries of arrays, so that the one
training loop can jit, shard, checkpoint and resume it, and the one scoring path can score a catalogue with it, without
either knowing which method it is.

`Batch` and `Example` are plain dictionaries. With a leading axis of B rows (`Batch`) or without (`Example`):

=========  =====================  ==========================================================================
key        shape                  meaning
=========  =====================  ==========================================================================
``x``      ``(B, ...)`` float32   the preprocessed object
``y``      ``(B,)`` int32         class index, 0-based, -1 where unknown (optional)
``mask``   ``(B,)`` float32       1 for a real row, 0 for a row that only pads the batch to its fixed size
=========  =====================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

Key = jax.Array
Batch = Mapping[str, jax.Array]
Example = Mapping[str, jax.Array]
State = Any  # a NamedTuple of arrays, the method's own
Metrics = dict[str, jax.Array]
Scores = dict[str, jax.Array]


class Stage(NamedTuple):
    """One phase of training: what the loop runs.

    Attributes
    ----------
    name : str
        Short, unique within the method; appears in logs and checkpoints.
    init : (key, batch, previous) -> State
        Start of the phase. `batch` gives shapes and may give values; `previous` is the final state of the stage
        before, or None for the first.
    step : (key, state, batch) -> (State, Metrics)
        One whole update: any number of networks and optimisers. Jitted by the loop; metrics are scalars.
    num_steps : int
        How often the loop calls `step`.
    validate : (state, batch) -> scalar, optional
        What model selection minimises on held-out rows (a mean over the rows whose mask is 1). None where there is
        nothing to select.
    watch : (rows) -> str, optional
        Complaint about the metrics logged so far (one dictionary of floats per logged window), ``""`` where all is well.
        The loop warns of a new complaint and goes on: a generator may recover.
    held_out : bool
        The stage looks at the held-out rows of its batches (``valid``, see `Feed`) while it trains.
    plain : bool
        The stage counts rows rather than learns from them (a mean, a ratio): it gets plain passes over the data, every
        row once an epoch, whatever balancing the training asks for.
    """

    name: str
    init: Callable[[Key, Batch, State | None], State]
    step: Callable[[Key, State, Batch], tuple[State, Metrics]]
    num_steps: int
    validate: Callable[[State, Batch], jax.Array] | None = None
    watch: Callable[[Sequence[Mapping[str, Any]]], str] | None = None
    plain: bool = False
    held_out: bool = False


class Term(NamedTuple):
    """A part of ONE object's score as a function of the object alone, and where its explanation starts.

    What the score compares the object with (its reconstruction, the centre of its class) is held. Terms add up to the score.

    Attributes
    ----------
    value : (x) -> scalar
        The term for any object in the place of this one.
    start : array
        An object in the shape of ``x`` in which nothing is strange, as far as this term goes: the reconstruction, where the
        term is how far the object is from it; a typical object otherwise.
    """

    value: Callable[[jax.Array], jax.Array]
    start: jax.Array


class Search(NamedTuple):
    """A score that is itself an optimisation, for ONE object: what the search engine runs for many at once.

    Attributes
    ----------
    init : (key, state, example) -> carry
        Where the search starts: a tree of arrays, of the same shapes for every object.
    step : (state, example, carry) -> carry
        One iteration.
    finish : (state, example, carry) -> Scores
        As `Method.score`, once the search has ended.
    done : (carry) -> bool
        Whether this object's search may end before `num_steps`.
    num_steps : int
        Iterations at most.
    rebuild : (state, example, carry) -> array, optional
        The nearest the model comes to the object, in the shape of ``x``.
    terms : (state, example, rebuilt) -> tuple of Term, optional
        What the score is the sum of, given what `rebuild` found. None where that is not told.
    """

    init: Callable[[Key, State, Example], Any]
    step: Callable[[State, Example, Any], Any]
    finish: Callable[[State, Example, Any], Scores]
    done: Callable[[Any], jax.Array]
    num_steps: int
    rebuild: Callable[[State, Example, Any], jax.Array] | None = None
    terms: Callable[[State, Example, jax.Array], tuple[Term, ...]] | None = None


class Method(NamedTuple):
    """What the rest of the package sees of a method.

    Attributes
    ----------
    stages : tuple of Stage
        Training, in order; each starts from the final state of the one before.
    score : (key, state, example) -> Scores, or Search
        Scores of ONE object as scalars. ``"score"`` is always there, and up means stranger; the others are its
        components. The scorer maps it over batches, so no object can depend on its neighbours.
    embed : (state, example) -> (D,) array
        Latent representation of ONE object.
    reconstruct : (key, state, example) -> array, optional
        The object as the model sees it, in the shape of ``x``. None where the method has no decoder, or its search
        rebuilds.
    terms : (key, state, example, typical) -> tuple of Term, optional
        What the score is the sum of; `typical` is an object of no strangeness in the shape of ``x``, from which a term may
        start. None: the whole score is one term that starts there. Not looked at where the score is a `Search`.
    """

    stages: tuple[Stage, ...]
    score: Callable[[Key, State, Example], Scores] | Search
    embed: Callable[[State, Example], jax.Array]
    reconstruct: Callable[[Key, State, Example], jax.Array] | None = None
    terms: Callable[[Key, State, Example, jax.Array], tuple[Term, ...]] | None = None


class Feed(NamedTuple):
    """Where the loop gets its batches: a function of the step alone, so that a run can resume anywhere.

    Attributes
    ----------
    batches : (start) -> iterator of dict
        Endless host batches (NumPy) from step `start` on, steps counted over all stages.
    passes : (start) -> iterator of dict
        The same without balancing: plain passes over the data, for stages that ask for them, steps counted from the
        stage's beginning.
    batch_size : int
        Rows in every batch; what an epoch's last batch lacks is padding, masked.
    steps_per_epoch, steps_per_pass : int
        Batches in an epoch of `batches`, and of `passes`; the latter always sees every row once.
    data : dict of arrays
        Whole columns that stay on the device, where the iterators yield ``index`` and ``mask`` instead of rows: nothing
        but a few integers travels each step. None for streamed feeds. A column named ``valid`` (itself a dict, of held-out
        rows), which either may have, is handed to every step as it is.
    fingerprint : str
        Identifies data and order; a run resumed with another one is refused.
    rows_axis : int
        Where a batch's rows are: 0, or 1 for an ensemble whose batches have one row set per member.
    """

    batches: Callable[[int], Iterator[dict[str, Any]]]
    passes: Callable[[int], Iterator[dict[str, Any]]]
    batch_size: int
    steps_per_epoch: int
    steps_per_pass: int
    data: dict[str, Any]
    fingerprint: str
    rows_axis: int = 0


class Plan(NamedTuple):
    """The sizes that a method's networks and stages depend on.

    Attributes
    ----------
    num_features : int
        Numbers in one flattened object.
    num_steps : int
        Updates of the main training stage.
    steps_per_epoch, steps_per_pass : int
        As in `Feed`.
    num_classes : int
        Known classes among the training rows; 1 where there are no labels.
    balanced : bool
        Whether the feed's batches hold the classes in equal parts.
    shape : tuple of int
        Of one object; empty where a method need not know it.
    """

    num_features: int
    num_steps: int
    steps_per_epoch: int
    steps_per_pass: int
    num_classes: int = 1
    balanced: bool = False
    shape: tuple[int, ...] = ()
