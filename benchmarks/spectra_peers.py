"""The spectra's variational autoencoder in eager PyTorch, from the same weights, and what is done with it.

Imported only where torch is installed. Float32. The decoder's likelihood is the survey's noise (``likelihood = "ivar"``).
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

from astroad_jax.methods import vae
from astroad_jax.methods.coherent import sums
from benchmarks.peers import device, synchronise


def mlp(params: dict[str, Any], dropout: float) -> nn.Sequential:
    """Linear layers with the weights of a `nets.dense.MLP`; ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for i in range(len(params)):
        held = params[f"Dense_{i}"]
        linear = nn.Linear(*held["kernel"].shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(np.array(held["kernel"]).T))
            linear.bias.copy_(torch.from_numpy(np.array(held["bias"])))
        layers += [linear, nn.ReLU(), nn.Dropout(dropout)] if i < len(params) - 1 else [linear]
    return nn.Sequential(*layers).to(device())


class Autoencoder:
    """Both networks, their loss, their scores and their optimiser."""

    def __init__(self, config: vae.Config, state: vae.VAEState):
        self.config = config
        self.encoder = mlp(state.encoder["params"], config.dropout)
        self.decoder = mlp(state.decoder["params"], config.dropout)
        values = itertools.chain(self.encoder.parameters(), self.decoder.parameters())
        self.unit = state.encoder["params"]["Dense_0"]["kernel"].shape[0] ** -0.5
        self.centre = torch.from_numpy(np.array(state.centre)).to(device())
        held = [sums(jnp.eye(len(self.centre)), min(width, len(self.centre))) for width in config.windows]
        self.windows = torch.from_numpy(np.concatenate(held, axis=1)).to(device())
        self.opt = torch.optim.Adam(values, lr=config.learning_rate)
        patience = max(config.plateau - 1, 0)  # there the rate falls once more than `patience` epochs brought nothing
        self.rule = torch.optim.lr_scheduler.ReduceLROnPlateau(self.opt, factor=0.1, patience=patience, threshold=0.0)
        self.steps = 0

    def flux(self, code: Tensor) -> Tensor:
        """Spectra ``(B, W)`` of codes."""
        return self.unit * (self.centre + self.decoder(code))

    def loss(self, x: Tensor, drawn: bool = True) -> Tensor:
        """The negative evidence lower bound of spectra ``(B, 2, W)``, averaged over them, at one draw of the code.

        Not drawn: at the code's mean instead.
        """
        mean, log_var = self.encoder(x[:, 0] / self.unit - self.centre).chunk(2, dim=1)
        code = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean) if drawn else mean
        cost = 0.5 * (x[:, 1] * (x[:, 0] - self.flux(code)).square()).sum(1)
        return (cost + self.config.beta * _divergence(mean, log_var)).mean()

    def step(self, x: Tensor) -> Tensor:
        """One update."""
        self.opt.zero_grad()
        loss = self.loss(x)
        loss.backward()
        self.opt.step()
        return loss.detach()

    def validate(self, x: Tensor) -> Tensor:
        """The loss of held-out spectra, dropout off, at the mean of the code."""
        self.encoder.eval(), self.decoder.eval()
        with torch.inference_mode():
            value = self.loss(x, drawn=False)
        self.encoder.train(), self.decoder.train()
        return value

    def train(
        self, x: np.ndarray, batch: int, steps: int, fetch: int, valid: np.ndarray | None = None
    ) -> tuple[float, list[float]]:
        """Seconds of `steps` updates on rows that lie on the device, and their losses, fetched every `fetch` steps.

        With held-out rows, the learning rate goes by their loss after every epoch.
        """
        self.encoder.train(), self.decoder.train()
        rows, held, losses = torch.from_numpy(x).to(device()), [], []
        held_out = None if valid is None else torch.from_numpy(valid).to(device())
        orders = (torch.randperm(len(rows), device=device()).split(batch)[: len(rows) // batch] for _ in itertools.count())
        batches = itertools.chain.from_iterable(orders)
        synchronise()
        start = time.perf_counter()
        for index in itertools.islice(batches, steps):
            held.append(self.step(rows[index]))
            self.steps += 1
            if held_out is not None and self.steps % (len(rows) // batch) == 0:
                self.rule.step(self.validate(held_out))
            if len(held) == fetch:
                losses += torch.stack(held).tolist()
                held = []
        losses += torch.stack(held).tolist() if held else []
        synchronise()
        return time.perf_counter() - start, losses

    def score(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """NumPy in, NumPy out, dropout off, no gradients: the components that the method gives."""
        self.encoder.eval(), self.decoder.eval()
        with torch.inference_mode():
            found = self._scores(torch.from_numpy(x).to(device()))
            return {name: values.cpu().numpy() for name, values in found.items()}

    def _scores(self, x: Tensor) -> dict[str, Tensor]:
        flux, ivar = x[:, 0], x[:, 1]
        mean, log_var = self.encoder(flux / self.unit - self.centre).chunk(2, dim=1)
        residual = flux - self.flux(mean)
        known = ivar @ self.windows
        signal = ((ivar * residual) @ self.windows).abs() / torch.where(known > 0, known, 1.0).sqrt()
        found = {"weighted_mse": (ivar * residual.square()).mean(1), "coherent": signal.amax(1)}
        found |= {"kl": _divergence(mean, log_var), "unmasked": (ivar > 0).float().mean(1)}
        if self.config.samples:
            noise = torch.randn(self.config.samples, *mean.shape, device=mean.device)
            rebuilt = self.flux((mean + torch.exp(0.5 * log_var) * noise).flatten(0, 1))
            squared = (flux - rebuilt.unflatten(0, (self.config.samples, -1))).square()
            found["probability"] = 0.5 * (ivar * squared).sum(2).mean(0)
        return found


def _divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    return 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum(1)
