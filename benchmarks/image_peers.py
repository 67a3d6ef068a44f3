"""The image networks in eager PyTorch, with the same weights, and what is done with them.

Imported only where torch is installed. Float32, in PyTorch's default memory layout. Layers come from the Linen modules' own
attributes, so both sides have the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from astroad_jax.methods import latent_search, wgan_gp
from benchmarks.peers import device


def _tensor(values: Any) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(values, np.float32)).to(device()))


class _Layers(nn.Module):
    """Convolutions and dense layers of a Flax network, in the order of their use."""

    def __init__(self, params: dict[str, Any], kinds: list[str]):
        super().__init__()
        self.kinds = kinds
        convs = [params[f"Conv_{i}"] for i in range(len(kinds))]
        places = [(2, 3, 0, 1) if kind == "up" else (3, 2, 0, 1) for kind in kinds]
        self.kernels = nn.ParameterList([_tensor(np.transpose(c["kernel"], p)) for c, p in zip(convs, places)])
        self.biases = nn.ParameterList([_tensor(conv["bias"]) for conv in convs])

    def layer(self, i: int, x: Tensor) -> Tensor:
        kernel, bias = self.kernels[i], self.biases[i]
        if self.kinds[i] == "up":
            return functional.conv_transpose2d(x, kernel, bias, stride=2, padding=1)
        return functional.conv2d(x, kernel, bias, stride=2 if self.kinds[i] == "down" else 1, padding=1)


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


class Generator(_Layers):
    """As `nets.conv2d.Generator`, without normalisation; images ``(B, C, H, W)``."""

    def __init__(self, net: Any, params: dict[str, Any]):
        flat = {f"Conv_{i}": conv for i, conv in enumerate(_convolutions(params))}
        super().__init__(flat, ["up"] * (len(net.widths) - 1) + ["same"] * (len(net.refine) + 1))
        self.width = net.widths[0]
        self.dense, self.dense_bias = _tensor(params["Dense_0"]["kernel"]), _tensor(params["Dense_0"]["bias"])

    def forward(self, z: Tensor) -> Tensor:
        """``(B, latent) -> (B, C, H, W)``."""
        x = _leaky(z @ self.dense + self.dense_bias).reshape(len(z), 4, 4, self.width).permute(0, 3, 1, 2)
        for i in range(len(self.kinds) - 1):
            x = _leaky(self.layer(i, x))
        return torch.tanh(self.layer(len(self.kinds) - 1, x))


class Critic(_Layers):
    """As `nets.conv2d.Critic`, without normalisation."""

    def __init__(self, net: Any, params: dict[str, Any]):
        flat = {f"Conv_{i}": conv for i, conv in enumerate(_convolutions(params["trunk"]))}
        super().__init__(flat, ["down"] * len(net.widths) + ["same"] * (net.last is not None))
        dense = [params[name] for name in sorted(params) if name.startswith("head")]
        self.dense = nn.ParameterList([_tensor(layer["kernel"]) for layer in dense])
        self.dense_biases = nn.ParameterList([_tensor(layer["bias"]) for layer in dense])

    def features(self, x: Tensor) -> Tensor:
        """``(B, F)`` in the order of the Flax network, so that the dense layers' weights are the same."""
        for i in range(len(self.kinds)):
            x = _leaky(self.layer(i, x))
        return x.permute(0, 2, 3, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B,)``."""
        h = self.features(x)
        for i, (kernel, bias) in enumerate(zip(self.dense, self.dense_biases)):
            h = h @ kernel + bias
            h = _leaky(h) if i < len(self.dense) - 1 else h
        return h[:, 0]


def _convolutions(params: dict[str, Any]) -> list[dict[str, Any]]:
    names = [name for name in params if name.startswith("Conv_")]
    return [params[name] for name in sorted(names, key=lambda name: int(name.rpartition("_")[2]))]


class Searcher:
    """The direct search of z, batched: every image has its own z and its own moments, so images stay independent."""

    def __init__(self, pair: latent_search.Pair, trained: latent_search.Trained, config: latent_search.Config):
        self.generator = Generator(pair.generator, trained.generator["params"]).requires_grad_(False)
        self.critic = Critic(pair.critic, trained.critic["params"]).requires_grad_(False)
        self.config, self.latent = config, pair.latent

    def run(self, x: np.ndarray, z: np.ndarray, iterations: int) -> np.ndarray:
        """Lowest loss of images ``(B, H, W, C)`` from the places ``z``, which is left as it is."""
        settings = self.config
        x = torch.from_numpy(x).to(device()).permute(0, 3, 1, 2).contiguous()
        z = torch.from_numpy(z).to(device()).clone().requires_grad_(True)
        opt = torch.optim.Adam([z], lr=settings.search_rate, betas=(settings.search_beta1, settings.search_beta2))
        with torch.no_grad():
            target = self.critic.features(x)
        best = torch.full((len(x),), float("inf"), device=device())
        for _ in range(iterations):
            opt.zero_grad()
            fake = self.generator(z)
            image = (x - fake).abs().flatten(1).sum(1)
            feature = (target - self.critic.features(fake)).abs().sum(1)
            loss = settings.gamma * image + (1 - settings.gamma) * feature
            loss.sum().backward()
            opt.step()
            best = torch.minimum(best, loss.detach())
        return best.cpu().numpy()


class Trainer:
    """Algorithm 1: `n_critic` updates of the critic to one of the generator."""

    def __init__(self, pair: latent_search.Pair, state: wgan_gp.WGANState, config: wgan_gp.Config):
        self.generator = Generator(pair.generator, state.generator["params"])
        self.critic = Critic(pair.critic, state.critic["params"])
        options = {"lr": config.learning_rate, "betas": (config.beta1, config.beta2)}
        self.opts = [torch.optim.Adam(net.parameters(), **options) for net in (self.generator, self.critic)]
        self.config, self.latent, self.steps = config, pair.latent, 0

    def step(self, x: Tensor) -> Tensor:
        """One update on images ``(B, C, H, W)``; the critic's loss."""
        z = torch.randn(len(x), self.latent, device=x.device)
        with torch.no_grad():
            fake = self.generator(z)
        mix = torch.rand(len(x), 1, 1, 1, device=x.device)
        between = (mix * x + (1 - mix) * fake).requires_grad_(True)
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        norm = (slope.flatten(1).square().sum(1) + 1e-12).sqrt()
        loss = self.critic(fake).mean() - self.critic(x).mean() + self.config.penalty * (norm - 1).square().mean()
        self.opts[1].zero_grad()
        loss.backward()
        self.opts[1].step()
        self.steps += 1
        if self.steps % self.config.n_critic == 0:
            self.opts[0].zero_grad()
            self.critic.requires_grad_(False)  # its gradients are not asked for here
            (-self.critic(self.generator(torch.randn_like(z))).mean()).backward()
            self.opts[0].step()
            self.critic.requires_grad_(True)
        return loss.detach()
