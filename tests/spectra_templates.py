"""Small stand-ins for the redrock templates and the noise of DESI spectra, in the files' own layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments import desi_objects

BINS = 1000


def wavelengths() -> np.ndarray:
    """Centres of the templates' bins, even in the logarithm."""
    edges = np.geomspace(3600, 7556, BINS + 1)
    return np.sqrt(edges[1:] * edges[:-1])


def gaussian(wave: np.ndarray, centre: float, sigma: float) -> np.ndarray:
    """Of unit area."""
    return np.exp(-0.5 * ((wave - centre) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)


def write(folder: Path, archetypes: int = 24) -> Path:
    """Directory with all three files: a third of the archetypes old, the others with lines."""
    rng, wave = np.random.default_rng(0), wavelengths()
    slope = np.linspace(-1.5, 1.0, archetypes)[:, None]
    flux = (wave / 5500) ** -slope * (1 - 0.2 * np.exp(-0.5 * ((wave - 4300) / 40) ** 2))
    strength = np.where(np.arange(archetypes) < archetypes // 3, 0, np.linspace(0, 90, archetypes))
    for i, (centre, _, _, _) in enumerate(desi_objects.EMISSION.values()):
        flux += strength[:, None] * rng.uniform(0.1, 0.4) * (3 if i == 12 else 1) * gaussian(wave, centre, 3.0)
    flux = (flux / np.median(flux, axis=1, keepdims=True)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{desi_objects.GALAXIES}.npz", flux=flux, wave=wave.astype(np.float32))
    broad = 1 + 200 * gaussian(wave, 6564.6, 40.0)
    bases = {name: np.stack([broad, *(np.sin(k * wave / 900) for k in (1, 2, 3))]) for name in desi_objects.QUASARS}
    for k, name in enumerate(desi_objects.STARS):
        bases[f"STAR_{name}_v0p1"] = np.stack(
            [-1 - 0.5 * np.sin(wave / (200 + 50 * k)), *np.sin(np.outer((2, 3), wave) / 700)]
        )
    bases = {name: values.astype(np.float32) for name, values in bases.items()}
    np.savez(folder / f"{desi_objects.OTHERS}.npz", wave=wave.astype(np.float32), **bases)
    pixels = 3600 + 0.8 * np.arange(7781)
    ivar = np.linspace(1, 4, 7781)[None].repeat(2, 0)
    ivar[:, 5000::200] /= 50  # sky lines
    ivar[1, 100:110] = 0
    mask = np.zeros(ivar.shape, bool)
    mask[0, 50] = True
    np.savez(
        folder / "desi_edr_raw_3.npz", wavelength=pixels[None].repeat(2, 0), ivar=ivar, mask=mask, flux=ivar, z_true=[0, 1]
    )
    return folder
