"""The same networks, losses and updates in eager PyTorch: what a user would otherwise write.

Imported only where torch is installed. Widths, activations, initialisation and optimiser come from the configuration
that the case's own method is built from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import cases
from benchmarks.cases import Case

Score = Callable[[np.ndarray], Any]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}


def device() -> torch.device:
    """The accelerator if torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    """Wait for the accelerator."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def name() -> str:
    """What the rows call this peer."""
    return f"PyTorch {torch.__version__.split('+')[0]} eager"


class Pair(NamedTuple):
    """Encoder and decoder."""

    encoder: nn.Module
    decoder: nn.Module


def mlp(features: int, widths: tuple[int, ...], settings: Any, last: str, last_bias: bool = True) -> nn.Sequential:
    """Linear layers with, between them, batch normalisation (optional) and an activation."""
    layers: list[nn.Module] = []
    for i, width in enumerate(widths):
        final = i == len(widths) - 1
        linear = nn.Linear(features, width, bias=last_bias or not final)
        if settings.weights == "small":
            for values in linear.parameters():
                nn.init.normal_(values, 0.0, 0.02)
        layers.append(linear)
        if settings.norm and not final:
            layers.append(nn.BatchNorm1d(width))
        layers.append(ACTIVATIONS[last if final else settings.activation]())
        features = width
    return nn.Sequential(*layers)


def pair(case: Case) -> Pair:
    """The case's networks."""
    settings = cases.config(case)
    heads = 2 if settings.name == "vae" else 1
    widths = (*settings.hidden, heads * settings.latent)
    encoder = mlp(case.features, widths, settings, settings.code, settings.code_bias)
    decoder = mlp(settings.latent, (*reversed(settings.hidden), case.features), settings, settings.output)
    return Pair(encoder.to(device()), decoder.to(device()))


class Trainer:
    """Trains a case's networks on rows that stay on the device; `step` is one update on a batch of indices."""

    def __init__(self, case: Case, seed: int = 0, compiled: bool = False):
        torch.manual_seed(seed)
        self.case, self.settings = case, cases.config(case)
        arrays = cases.data(case, case.rows)
        self.x, self.y = (torch.from_numpy(arrays[key]).to(device()) for key in ("x", "y"))
        self.pair = pair(case)
        self.centre = torch.randn(self.settings.latent, device=device(), requires_grad=True)
        self.centres = self._class_centres()
        self.opt = torch.optim.Adam(
            self._parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.centre_opt = self._centre_optimiser()
        loss = getattr(self, f"_{self.settings.name}")
        self.loss = torch.compile(loss) if compiled else loss
        self.order = self._batches()
        self.losses: list[float] = []

    def run(self, steps: int, fetch: int) -> float:
        """Train on and return the seconds taken; losses are fetched every `fetch` steps, as the other side does."""
        held = []
        synchronise()
        start = time.perf_counter()
        for _ in range(steps):
            held.append(self.step(next(self.order)))
            if len(held) == fetch:
                self.losses += torch.stack(held).tolist()
                held = []
        if held:
            self.losses += torch.stack(held).tolist()
        synchronise()
        return time.perf_counter() - start

    def step(self, index: Tensor) -> Tensor:
        """One update; for DASVDD of the networks, then of the centre."""
        x = self.x[index]
        cut = math.ceil(self.settings.kappa * len(x)) if self.settings.name == "dasvdd" else len(x)
        self.opt.zero_grad()
        loss = self.loss(x[:cut], self.y[index] if self.case.classes > 1 else None)
        loss.backward()
        self.opt.step()
        if cut < len(x):
            self._move_centre(x[cut:])
        return loss.detach()

    def _parameters(self) -> list[nn.Parameter]:
        nets = self.pair[:1] if self.settings.name == "mcdsvdd" else self.pair
        return [values for net in nets for values in net.parameters()]

    def _centre_optimiser(self) -> torch.optim.Optimizer | None:
        if self.settings.name != "dasvdd":
            return None
        rate, decay = self.settings.centre_learning_rate, self.settings.centre_decay
        return torch.optim.Adagrad([self.centre], lr=rate, lr_decay=decay)

    def _class_centres(self) -> Tensor | None:
        """Mean code of every class, by the networks as they start."""
        if self.case.classes == 1:
            return None
        with torch.no_grad():
            codes = self.pair.encoder.eval()(self.x)
            self.pair.encoder.train()
            return torch.stack([codes[self.y == m].mean(0) for m in range(self.case.classes)])

    def _batches(self) -> Any:
        """Endless batches of row numbers: shuffled epochs, or classes in equal parts with replacement."""
        weight = 1.0 / torch.bincount(self.y.long()).double()[self.y.long()]
        while True:
            if self.case.classes > 1:
                order = torch.multinomial(weight, len(self.x), replacement=True)
            else:
                order = torch.randperm(len(self.x), device=device())
            yield from order.split(self.case.batch)[: len(self.x) // self.case.batch]

    def _move_centre(self, x: Tensor) -> None:
        with torch.no_grad():
            mean = self.pair.encoder(x).mean(0)
            self.centre.grad = 2.0 * (self.centre - mean) / mean.numel()
            self.centre_opt.step()

    def _dasvdd(self, x: Tensor, y: Tensor | None) -> Tensor:
        del y
        code = self.pair.encoder(x)
        error = (x - self.pair.decoder(code)).square().mean()
        return error + self.settings.gamma * (code - self.centre.detach()).square().sum(1).mean()

    def _autoencoder(self, x: Tensor, y: Tensor | None) -> Tensor:
        del y
        return (x - self.pair.decoder(self.pair.encoder(x))).square().mean()

    def _mcdsvdd(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.pair.encoder(x) - self.centres[y]).square().sum(1).mean()

    def _vae(self, x: Tensor, y: Tensor | None) -> Tensor:
        del y
        mean, log_var = self.pair.encoder(x).chunk(2, dim=1)
        code = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        error = (x - self.pair.decoder(code)).square().sum(1) / (2.0 * self.settings.sigma**2)
        divergence = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum(1)
        return (error + self.settings.beta * divergence).mean()


def scorer(case: Case) -> Score:
    """NumPy in, NumPy out, in evaluation mode without gradients: the same outputs per object as the case's method."""
    torch.manual_seed(0)
    settings = cases.config(case)
    encoder, decoder = pair(case)
    encoder.eval(), decoder.eval()
    centres = torch.randn(max(case.classes, 1), settings.latent, device=device())

    def outputs(x: Tensor) -> tuple[Tensor, ...]:
        code = encoder(x)
        if settings.name == "mcdsvdd":
            return tuple((code[:, None] - centres).square().sum(-1).min(1))
        if settings.name == "vae":
            return _vae_score(settings, decoder, code, x)
        error = (x - decoder(code)).square().mean(1)
        if settings.name == "autoencoder":
            return (error,)
        radius = (code - centres[0]).square().sum(-1)
        return error + settings.gamma * radius, error, radius

    def score(x: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [values.cpu().numpy() for values in outputs(torch.from_numpy(x).to(device()))]

    return score


def _vae_score(settings: Any, decoder: nn.Module, heads: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error averaged over features and draws of the code, and the code's divergence from the prior."""
    mean, log_var = heads.chunk(2, dim=1)
    noise = torch.randn(settings.samples, *mean.shape, device=mean.device)
    rebuilt = decoder((mean + torch.exp(0.5 * log_var) * noise).flatten(0, 1))
    error = (x - rebuilt.unflatten(0, (settings.samples, -1))).square().mean((0, 2))
    return error, 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)


def pyod_scorer(case: Case) -> tuple[str, Score] | None:
    """PyOD's detector of the same kind with the same hidden layers, fitted for one epoch; None where it has none."""
    settings = cases.config(case)
    rows = cases.data(case, 512)["x"]
    hidden = [*settings.hidden, settings.latent]
    if settings.name == "autoencoder":
        from pyod.models.auto_encoder import AutoEncoder

        found = AutoEncoder(hidden_neuron_list=hidden, epoch_num=1, batch_size=256, dropout_rate=0.0, verbose=0)
    elif settings.name == "mcdsvdd":
        from pyod.models.deep_svdd import DeepSVDD

        found = DeepSVDD(case.features, hidden_neurons=hidden, epochs=1, batch_size=256, dropout_rate=0.0, verbose=0)
    else:
        return None
    found.fit(rows)
    return f"PyOD {type(found).__name__}", found.decision_function
