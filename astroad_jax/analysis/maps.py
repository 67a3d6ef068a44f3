"""Maps of features in the plane: scikit-learn's t-SNE, with what makes it repeatable."""

from __future__ import annotations

import numpy as np

from astroad_jax.errors import DataError


def tsne(x: np.ndarray, seed: int, *, perplexity: float = 30.0, components: int = 50) -> np.ndarray:
    """Places of objects in the plane by t-SNE (van der Maaten & Hinton 2008).

    Parameters
    ----------
    x : (N, D) float
        Features, finite.
    seed : int
        The start is the first two principal components, so it moves little.
    components : int
        Principal components kept before the neighbours are searched, as is the custom for wide features.

    Returns
    -------
    (N, 2) float32

    Raises
    ------
    DataError
        Rows that are not finite, or no more than thrice the perplexity of them.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        got = f"{int((~np.isfinite(x).all(1)).sum())} rows that are not"
        raise DataError("a map needs finite features", got=got, fix="leave them out")
    if len(x) <= 3 * perplexity:
        fix = "give more objects, or a lower perplexity"
        raise DataError("too few objects for a map", expected=f"more than {3 * perplexity:g}", got=len(x), fix=fix)
    if x.shape[1] > components:
        x = PCA(min(components, len(x)), random_state=seed).fit_transform(x)
    return TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed).fit_transform(x)
