"""Variational autoencoder: strange is what a smooth latent model rebuilds badly on average.

Kingma & Welling 2014, eq. 10 (arXiv:1312.6114); as a baseline in Perez-Carrasco et al. 2023 (MCDSVDD), appendix I; on
spectra in Nicolaou et al., "Identifying anomalous DESI galaxy spectra with a variational autoencoder" ("the DESI paper"
below); its reconstruction probability in An & Cho 2015, "Variational autoencoder based anomaly detection using
reconstruction probability", algorithm 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field, model_validator

from astroad_jax.errors import ConfigError
from astroad_jax.methods import likelihoods, plateau
from astroad_jax.methods.autoencoder import Dense, dense_pair
from astroad_jax.methods.coherent import coherent
from astroad_jax.methods.likelihoods import Likelihood
from astroad_jax.methods.losses import adam_l2, descend, masked_mean, rows
from astroad_jax.nets import Variables, forward, forward_train
from astroad_jax.types import Batch, Example, Key, Method, Metrics, Plan, Scores, Stage, State, Term

ScoreBy = Literal["weighted_mse", "probability"]


class VAEState(NamedTuple):
    """Two networks, the optimiser they share, and the object that is neither encoded nor decoded but taken as known.

    ``centre`` (F,) is in the networks' units: the mean of the first batch, or 0 (`Likelihood.centre`).
    """

    encoder: Variables
    decoder: Variables
    opt: optax.OptState
    centre: jax.Array


# The DESI paper's network. Its list of layers begins with the 1,000 pixels of the input, which is no hidden layer.
SPECTRA = {
    "hidden": (800, 600, 500, 300),
    "latent": 10,
    "activation": "relu",
    "output": "none",
    "norm": False,
    "weights": "glorot",
    "dropout": 0.2,
    "plateau": 5,
    "score_by": "weighted_mse",
}
WINDOWS = (60, 150)  # of the 1,000 pixels of a DESI spectrum: 240 and 590 Angstrom


class Config(Dense):
    """The autoencoder's layers with two heads on the code; the defaults depend on the likelihood.

    ``fixed`` is the variational autoencoder of MCDSVDD's appendix I. With ``ivar`` or ``learnt``, what is not given is the
    DESI paper's (`SPECTRA`): hidden layers 800-600-500-300 and a code of 10, the decoder mirrored, ReLU between, linear
    ends, dropout of 0.2, Adam at 1e-3 divided by 10 after 5 epochs without improvement. Its batches of 512 and 50 epochs
    are the training's (``train.batch_size``, ``train.epochs``), its validation rows ``data.validation_fraction``.

    Where the DESI paper is silent: the networks see and give differences from the mean spectrum of the first batch, in units
    of a pixel's root mean square (`likelihoods`, which says why); one draw of the code a step; KL weight 1, which makes the
    loss the negative evidence lower bound; dropout after every hidden activation (not on input, code or output);
    initialisation and absence of batch normalisation as in the library it names; spectra rebuilt for `weighted_mse` from the
    code's mean, so that a score and the reconstruction shown with it agree.

    Attributes
    ----------
    likelihood : {"fixed", "ivar", "learnt"}
        See `astroad_jax.methods.likelihoods`. ``ivar`` wants objects ``(2, W)``, ``learnt`` takes any.
    sigma : float
        Width of the fixed likelihood, in units of the scaled features.
    sigma_floor : float
        Least width of the learnt one. At 1e-4 a pixel of a 1,000-pixel spectrum of unit norm has S/N 300 or less.
    beta : float
        Weight of the divergence.
    draws, samples : int
        Draws of the code a training step, and in a score. 0 samples (``ivar`` and ``learnt``): no `probability`.
    plateau : int
        Epochs without improvement after which the learning rate is divided by 10; 0 = never.
    score_by : {"weighted_mse", "probability"}, optional
        Which component is the score, of ``ivar`` and ``learnt``.
    windows : tuple of int
        Widths in pixels of the windows that the component `coherent` looks through, of spectra only; what is wider than
        the object is as wide as it. `WINDOWS` of ``ivar``, none of ``learnt``, which may be for other objects. That
        component cannot be the score.
    """

    TUNABLE = (*Dense.TUNABLE, "beta", "draws", "samples", "dropout", "score_by", "windows")
    VARYING: ClassVar[tuple[str, ...]] = (*SPECTRA, "windows")
    name: Literal["vae"] = "vae"
    code_bias: bool = True
    likelihood: Literal["fixed", "ivar", "learnt"] = Field(
        "fixed",
        description="width of the likelihood: sigma; of spectra, the inverse variance they come with; of the decoder. "
        "astroad keys comments out the defaults under fixed of the keys that have the DESI paper's values under the others",
    )
    sigma: float = Field(1.0, gt=0, description="standard deviation of the likelihood, in units of the scaled features")
    sigma_floor: float = Field(1e-4, gt=0, description="learnt: the least standard deviation")
    beta: float = Field(1.0, ge=0, description="weight of the divergence of the code from a standard normal")
    draws: int = Field(1, ge=1, description="draws of the code a training step")
    samples: int = Field(10, ge=0, description="draws of the code that the score averages")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the hidden units left out in training")
    plateau: int = Field(
        0, ge=0, description="epochs without improvement after which the learning rate falls tenfold; 0: never"
    )
    score_by: ScoreBy | None = Field(None, description="of spectra: which score is the score")
    windows: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (), description="of spectra: pixels over which residuals that hang together are averaged; none: no such component"
    )

    @model_validator(mode="before")
    @classmethod
    def _papers_network(cls, values: Any) -> Any:
        """What is not given is the paper's that the likelihood is from; the windows are this package's own."""
        spectral = isinstance(values, dict) and values.get("likelihood", "fixed") != "fixed"
        windows = {"windows": WINDOWS} if spectral and values["likelihood"] == "ivar" else {}
        return {**SPECTRA, **windows, **values} if spectral else values

    @model_validator(mode="after")
    def _heeded(self) -> Config:
        """A key that this likelihood does not look at is refused, rather than given and ignored."""
        if self.likelihood == "fixed" and (self.score_by is not None or self.samples < 1):
            raise ValueError("the fixed likelihood has one score, a mean over samples >= 1: score_by is not for it")
        if self.likelihood == "fixed" and self.windows:
            raise ValueError("windows are for spectra: leave them out, or set likelihood = ivar or learnt")
        if self.likelihood != "fixed" and (self.score_by is None or self.sigma != 1.0):
            raise ValueError("sigma is the fixed likelihood's; this one has score_by = weighted_mse or probability")
        if self.likelihood != "learnt" and self.sigma_floor != type(self).model_fields["sigma_floor"].default:
            raise ValueError("sigma_floor is the learnt likelihood's: leave it out, or set likelihood = learnt")
        if self.score_by == "probability" and not self.samples:
            raise ValueError("score_by = probability takes samples >= 1")
        return self


def kl_to_standard_normal(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL(N(mean, exp(log_var)) || N(0, 1)) summed over the code: ``(B, L), (B, L) -> (B,)``."""
    return 0.5 * jnp.sum(mean**2 + jnp.exp(log_var) - 1.0 - log_var, axis=-1)


def _split(heads: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_var = jnp.split(heads, 2, axis=-1)
    return mean, log_var


class Nets(NamedTuple):
    """Encoder and decoder with what is made of the decoder's output: all that scores and stage share."""

    encoder: nn.Module
    decoder: nn.Module
    likelihood: Likelihood

    def encode(self, state: VAEState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance of the codes of objects ``(B, ...)``: ``(B, L)`` each."""
        return _split(forward(self.encoder, state.encoder, self.seen(state, x)))

    def decode(self, state: VAEState, z: jax.Array) -> jax.Array:
        """What the decoder gives for codes ``(B, L)``, and the centre with it."""
        return self.moved(state, forward(self.decoder, state.decoder, z))

    def seen(self, state: VAEState, x: jax.Array) -> jax.Array:
        """What the encoder is shown: how objects differ from the centre."""
        seen = self.likelihood.seen(x)
        return seen - state.centre.reshape(1, *seen.shape[1:])

    def moved(self, state: VAEState, out: jax.Array) -> jax.Array:
        """The decoder's output ``(B, heads * F)`` with the centre added to its first F numbers."""
        return out + jnp.pad(state.centre, (0, out.shape[-1] - len(state.centre)))[None]

    def draw(self, key: Key, state: VAEState, x: jax.Array, samples: int) -> tuple[jax.Array, jax.Array]:
        """ONE object ``(1, ...)`` and what is decoded for draws of its code, both with `samples` rows."""
        mean, log_var = self.encode(state, x)
        noise = jax.random.normal(key, (samples, mean.shape[-1]))
        out = self.decode(state, mean + jnp.exp(0.5 * log_var) * noise)
        return jnp.broadcast_to(x, (samples, *x.shape[1:])), out


def vae(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    tx: optax.GradientTransformation,
    num_steps: int,
    likelihood: Likelihood | None = None,
    beta: float = 1.0,
    draws: int = 1,
    samples: int = 10,
    score_by: ScoreBy | None = None,
    widths: Sequence[int] = (),
) -> Method:
    """Variational autoencoder with a Gaussian likelihood.

    Parameters
    ----------
    encoder : flax.linen.Module
        ``(B, ...) -> (B, 2 L)``: mean and log-variance of the code, side by side.
    decoder : flax.linen.Module
        ``(B, L) -> (B, heads * F)``; `Likelihood.heads` numbers for each of F features.
    likelihood : Likelihood
        By default `likelihoods.fixed` of width 1. The loss of one object is ``cost + beta KL``, with fixed width
        |x - y|^2 / (2 sigma^2) + beta KL. MCDSVDD's code averages the square over the F features and the divergence over
        batch and code, which is sigma^2 = F / (2 L).
    draws : int
        Draws of the code a step, over which the cost is averaged.
    samples : int
        Draws averaged in a score (MCDSVDD's several reconstructions, of which its code takes a single one; An & Cho's L).
    score_by : {"weighted_mse", "probability"}, optional
        Which of these components is the score; by default neither.
    widths : sequence of int
        Of the windows of `coherent`, in pixels.

    Returns
    -------
    Method
        ``kl`` is the divergence of the object's code. By default ``score`` is the squared error averaged over features
        and draws. With `score_by` it is one of the components, all of them per object:

        ``weighted_mse``
            Eq. 6 of the DESI paper at the mean of the code: the squared error times the inverse variance, averaged over
            all pixels. Masked pixels add 0 and are counted, so a spectrum half masked is expected at half the value:
            divide by ``unmasked`` for a reduced chi-squared.
        ``probability``
            The cost averaged over draws of the code: a negative log-probability, up = stranger (An & Cho); without the
            constant that `likelihoods.ivar` explains.
        ``coherent``
            Of spectra, where there are `widths`: the largest signal-to-noise of the residuals in a window, at the mean of
            the code (`methods.coherent`, this package's own): steps between cameras, sky badly subtracted over a stretch.
        ``unmasked``
            Share of the pixels that are not masked. Where it is 0 all the others are NaN: no score.
    """
    nets = Nets(encoder, decoder, likelihood or likelihoods.fixed())
    train = _stage(nets, tx, num_steps, beta, draws)

    def embed(state: VAEState, example: Example) -> jax.Array:
        return nets.encode(state, example["x"][None])[0][0]

    def reconstruct(key: Key, state: VAEState, example: Example) -> jax.Array:
        del key
        out = nets.decode(state, embed(state, example)[None])
        return nets.likelihood.rebuilt(example["x"][None], out)[0]

    score = _error_of_draws(nets, samples) if score_by is None else _pixel_scores(nets, samples, score_by, widths)
    return Method((train,), score, embed, reconstruct, _terms(nets, samples, score_by))


def _error_of_draws(nets: Nets, samples: int) -> Callable[[Key, VAEState, Example], Scores]:
    def score(key: Key, state: VAEState, example: Example) -> Scores:
        x = example["x"][None]
        error = nets.likelihood.error(*nets.draw(key, state, x, samples))
        return {"score": jnp.mean(error), "kl": kl_to_standard_normal(*nets.encode(state, x))[0]}

    return score


def _pixel_scores(
    nets: Nets, samples: int, score_by: ScoreBy, widths: Sequence[int]
) -> Callable[[Key, VAEState, Example], Scores]:
    def score(key: Key, state: VAEState, example: Example) -> Scores:
        x = example["x"][None]
        mean, log_var = nets.encode(state, x)
        used = nets.likelihood.used(x)[0]
        out = nets.decode(state, mean)
        parts = {"weighted_mse": nets.likelihood.error(x, out)[0]}
        if widths and likelihoods.is_spectra(x):
            residual, weight = likelihoods.difference(x, nets.likelihood.rebuilt(x, out)[:, 0])
            parts["coherent"] = coherent(residual, weight, widths)[0]
        if samples:
            parts["probability"] = jnp.mean(nets.likelihood.cost(*nets.draw(key, state, x, samples)))
        parts = {name: jnp.where(used > 0, value, jnp.nan) for name, value in parts.items()}
        return {"score": parts[score_by], **parts, "kl": kl_to_standard_normal(mean, log_var)[0], "unmasked": used}

    return score


def _terms(nets: Nets, samples: int, score_by: ScoreBy | None) -> Callable[..., tuple[Term, ...]]:
    """The score as a sum over what was decoded: at the mean of the code, or of each draw with an equal share."""
    compare = nets.likelihood.cost if score_by == "probability" else nets.likelihood.error

    def terms(key: Key, state: VAEState, example: Example, typical: jax.Array) -> tuple[Term, ...]:
        del typical
        x = example["x"][None]
        at_mean = score_by == "weighted_mse"
        out = nets.decode(state, nets.encode(state, x)[0]) if at_mean else nets.draw(key, state, x, samples)[1]
        rebuilt = nets.likelihood.rebuilt(jnp.broadcast_to(x, (len(out), *x.shape[1:])), out)
        return tuple(Term(partial(share, out[i : i + 1], len(out)), rebuilt[i]) for i in range(len(out)))

    def share(out: jax.Array, count: int, x: jax.Array) -> jax.Array:
        return compare(x[None], out)[0] / count

    return terms


def _stage(nets: Nets, tx: optax.GradientTransformation, num_steps: int, beta: float, draws: int) -> Stage:
    """Maximise the evidence lower bound."""
    encoder, decoder, likelihood = nets

    def init(key: Key, batch: Batch, previous: State | None) -> VAEState:
        del previous
        x, mask = rows(batch)
        key_e, key_d = jax.random.split(key)
        heads, enc = encoder.init_with_output(key_e, likelihood.seen(x))
        dec = decoder.init(key_d, _split(heads)[0])
        return VAEState(enc, dec, tx.init((enc["params"], dec["params"])), likelihood.centre(x, mask))

    def decode_draws(key: Key, state: VAEState, params: Any, mean: jax.Array, log_var: jax.Array, mask: jax.Array):
        """Decoder's output for every draw, ``(draws * B, ...)``, and its new variables."""
        noise = jax.random.normal(key, (draws, *mean.shape))
        z = (mean[None] + jnp.exp(0.5 * log_var)[None] * noise).reshape(-1, mean.shape[-1])
        out, dec = forward_train(decoder, state.decoder, params, z, jnp.tile(mask, draws), jax.random.fold_in(key, 1))
        return nets.moved(state, out), dec

    def step(key: Key, state: VAEState, batch: Batch) -> tuple[VAEState, Metrics]:
        x, mask = rows(batch)

        def loss(params):
            seen = nets.seen(state, x)
            heads, enc = forward_train(encoder, state.encoder, params[0], seen, mask, jax.random.fold_in(key, 0))
            mean, log_var = _split(heads)
            out, dec = decode_draws(key, state, params[1], mean, log_var, mask)
            cost = likelihood.cost(jnp.tile(x, (draws,) + (1,) * (x.ndim - 1)), out).reshape(draws, -1).mean(0)
            kl = kl_to_standard_normal(mean, log_var)
            return masked_mean(cost + beta * kl, mask), (enc, dec, masked_mean(kl, mask))

        params = (state.encoder["params"], state.decoder["params"])
        (value, (enc, dec, kl)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        (new_e, new_d), opt = descend(tx, gradient, state.opt, params)
        new = state._replace(encoder={**enc, "params": new_e}, decoder={**dec, "params": new_d}, opt=opt)
        return new, {"loss": value, "kl": kl}

    def validate(state: VAEState, batch: Batch) -> jax.Array:
        """The loss at the mean of the code, without dropout: the same for the same state.

        It is not the bound that is trained: the cost there is that of draws of the code, whose scatter adds to it as a rule.
        """
        x, mask = rows(batch)
        mean, log_var = nets.encode(state, x)
        cost = likelihood.cost(x, nets.decode(state, mean))
        return masked_mean(cost + beta * kl_to_standard_normal(mean, log_var), mask)

    return Stage("vae", init, step, num_steps, validate)


LIKELIHOODS: dict[str, Callable[[Config], Likelihood]] = {
    "fixed": lambda config: likelihoods.fixed(config.sigma),
    "ivar": lambda config: likelihoods.ivar(),
    "learnt": lambda config: likelihoods.learnt(config.sigma_floor),
}


def nets_of(config: Config, plan: Plan) -> Nets:
    """The networks that a configuration names.

    Raises
    ------
    ConfigError
        ``ivar``, or windows, for objects that have no inverse variance.
    """
    spectra = len(plan.shape) == 2 and plan.shape[0] == 2
    if not spectra and (config.likelihood == "ivar" or config.windows):
        ivar = config.likelihood == "ivar"
        raise ConfigError(
            "these objects have no inverse variance" if ivar else "windows are for spectra",
            where="method.likelihood" if ivar else "method.windows",
            expected="objects of shape (2, pixels): flux and inverse variance",
            got=plan.shape or f"{plan.num_features} numbers",
            fix="read spectra that have one, or set method.likelihood = fixed or learnt" if ivar else "leave them out",
        )
    likelihood = LIKELIHOODS[config.likelihood](config)
    pixels = plan.num_features // 2 if spectra and config.likelihood != "fixed" else plan.num_features
    pair = dense_pair(config, likelihood.heads * pixels, code_width=2 * config.latent, dropout=config.dropout)
    return Nets(*pair, likelihood)


def build(config: Config, plan: Plan) -> Method:
    """Variational autoencoder from its configuration."""
    encoder, decoder, likelihood = nets_of(config, plan)
    tx = adam_l2(config.learning_rate, config.weight_decay)
    options = {"likelihood": likelihood, "beta": config.beta, "draws": config.draws}
    options |= {"samples": config.samples, "score_by": config.score_by, "num_steps": plan.num_steps}
    options["widths"] = config.windows
    if not config.plateau:
        return vae(encoder, decoder, tx=tx, **options)
    made = vae(encoder, decoder, tx=plateau.scaled(tx), **options)
    rule = {"every": plan.steps_per_epoch, "patience": config.plateau}
    return made._replace(stages=tuple(plateau.lowering(stage, **rule) for stage in made.stages))
