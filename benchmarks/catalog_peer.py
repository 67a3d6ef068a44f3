"""What a user would write in PyTorch to score a catalogue: read, scale, a DataLoader, the network, write.

Imported only where torch is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from astroad_jax.app.bundle import Bundle
from benchmarks.peers import device

BATCH = 4096


def _layers(params: dict[str, Any]) -> nn.Sequential:
    """A trained `nets.dense.MLP` with batch normalisation (whose averages do not matter to the speed)."""
    layers: list[nn.Module] = []
    for i in range(sum(name.startswith("Dense") for name in params)):
        held = params[f"Dense_{i}"]
        linear = nn.Linear(*held["kernel"].shape, bias="bias" in held)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(np.array(held["kernel"]).T))
            if "bias" in held:
                linear.bias.copy_(torch.from_numpy(np.array(held["bias"])))
        layers.append(linear)
        if f"BatchNorm_{i}" in params:
            layers += [nn.BatchNorm1d(linear.out_features), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)


def loop(model: Bundle, table: Path, out: Path) -> Callable[[], None]:
    """The whole work as one call."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.preprocessing import QuantileTransformer

    names = list(model.schema.features)
    encoder = _layers(model.state.encoder["params"]).to(device()).eval()
    decoder = nn.Sequential(_layers(model.state.decoder["params"]), nn.Tanh()).to(device()).eval()
    scaler = QuantileTransformer(n_quantiles=1000).fit(_matrix(pq.read_table(table, columns=names)))

    def call() -> None:
        read = pq.read_table(table)
        x = torch.from_numpy(2 * scaler.transform(_matrix(read.select(names))).astype(np.float32) - 1)
        scores = []
        with torch.inference_mode():
            for (batch,) in DataLoader(TensorDataset(x), batch_size=BATCH):
                batch = batch.to(device())
                scores.append((batch - decoder(encoder(batch))).square().mean(1).cpu())
        columns = {"object_id": read["object_id"], "score": pa.array(torch.cat(scores).numpy())}
        pq.write_table(pa.table(columns), out, compression="zstd")

    return call


def _matrix(table: Any) -> np.ndarray:
    return np.stack([table[name].to_numpy() for name in table.column_names], axis=1)
