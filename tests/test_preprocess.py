"""Scaling: against scikit-learn, closed forms, and everything that can be wrong with a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astroad_jax import preprocess
from astroad_jax.config import Preprocess
from astroad_jax.errors import CorruptError, DataError
from astroad_jax.preprocess import features
from astroad_jax.preprocess.scaler import CONSTANT, EMPTY, INF_INPUT, NAN_INPUT, OUTSIDE

KINDS = ("quantile", "minmax", "standard", "gcn", "none")
POLICIES = ("flag", "median", "lowest", "error")
NAN, INF = np.nan, np.inf


def table(rows: int = 300, columns: int = 7, seed: int = 0) -> np.ndarray:
    """Normal, tied, skewed, binary, and constant columns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    x[:, 1] = np.round(2 * x[:, 1])
    x[:, 2] = np.exp(3 * x[:, 2])
    x[:, 3] = x[:, 3] > 0.5
    x[:, 4] = 0.1
    return x


def fitted(x: np.ndarray, scale: str, nan: str = "flag") -> preprocess.Scaler:
    return preprocess.fit(x, Preprocess(scale=scale, nan=nan))


@pytest.mark.parametrize("rows", [2, 17, 300, 2500])
def test_quantile_is_sklearns(rows: int):
    from sklearn.preprocessing import QuantileTransformer

    x, other = table(rows), 2 * table(100, seed=1)
    expected = QuantileTransformer(n_quantiles=min(1000, rows), subsample=None).fit(x)
    # In float64 a quantile that falls on the edge of a run of ties can miss it by a rounding error.
    expected.quantiles_ = expected.quantiles_.astype(np.float32)
    varying = np.ptp(x, axis=0) > 0
    for values in (x, other):
        z, flags = preprocess.apply(fitted(x, "quantile"), values)
        np.testing.assert_allclose(z[:, varying], (2 * expected.transform(values) - 1)[:, varying], atol=1e-6)
        assert not z[:, ~varying].any()
        beyond = ((values < x.min(0)) | (values > x.max(0))).any(1)
        np.testing.assert_array_equal(flags, np.where(beyond, OUTSIDE, 0))


def test_values_beyond_training_are_flagged_and_keep_their_score():
    x = np.stack([np.linspace(0, 1, 50), np.full(50, 3.0)], axis=1).astype(np.float32)
    scaler = fitted(x, "quantile")
    new = np.array([[0.5, 3], [1e30, 3], [-0.1, 3], [0.5, 3.1], [np.nan, 3]], np.float32)
    z, flags = preprocess.apply(scaler, new)
    assert flags.tolist() == [0, OUTSIDE, OUTSIDE, OUTSIDE, NAN_INPUT]
    assert not preprocess.unusable(scaler, flags)[:4].any()
    assert np.abs(z).max() <= 1
    for kind in ("minmax", "standard", "none"):
        assert not (preprocess.apply(fitted(x, kind), new)[1] & OUTSIDE).any()


def test_ties_get_their_mean_rank():
    from scipy.stats import rankdata

    x = table(300)[:, [1, 3]]
    z, _ = preprocess.apply(fitted(x, "quantile"), x)
    inner = (x > x.min(0)) & (x < x.max(0))
    expected = 2 * (rankdata(x, axis=0) - 1) / 299 - 1
    np.testing.assert_allclose(z[inner], expected[inner], atol=1e-6)


def test_quantile_ignores_missing_training_values():
    x = table()
    holes = np.concatenate([x, np.full((5, 7), NAN, np.float32), np.full((5, 7), INF, np.float32)])
    levels = np.linspace(0, 1, len(holes))
    expected = np.quantile(x.astype(np.float64), levels, axis=0)
    np.testing.assert_allclose(fitted(holes, "quantile").params["quantiles"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("quantile", [[1, 0], [0, 0], [-1, 0], [1, 0]]),
        ("minmax", [[1, 0], [0, 0], [-1, 0], [5, 0]]),
        ("standard", [[1.5**0.5, 0], [0, 0], [-(1.5**0.5), 0], [5 * 1.5**0.5, 0]]),
        ("gcn", [[0, 0], [-(2**0.5), 2**0.5], [-(2**0.5), 2**0.5], [2**0.5, -(2**0.5)]]),
        ("none", [[5, 5], [4, 5], [3, 5], [9, 6]]),
    ],
)
def test_closed_forms(scale: str, expected: list[list[float]]):
    x = np.array([[5, 5], [4, 5], [3, 5], [9, 6]], np.float32)
    z, _ = preprocess.apply(fitted(x[:3], scale), x)
    np.testing.assert_allclose(z, expected, atol=1e-6)
    assert z.dtype == np.float32


def test_gcn_pixels_have_deviation_sqrt_d():
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 3)).astype(np.float32)
    z, flags = preprocess.apply(fitted(images, "gcn"), images)
    assert z.shape == images.shape
    np.testing.assert_allclose(z.std(axis=(1, 2, 3)), np.sqrt(192), rtol=1e-5)
    np.testing.assert_allclose(z.mean(axis=(1, 2, 3)), 0, atol=1e-4)
    bright, _ = preprocess.apply(fitted(images, "gcn"), 1e30 * images + 0)
    np.testing.assert_allclose(bright, z, rtol=1e-3, atol=1e-3)
    assert not flags.any()


@pytest.mark.parametrize("scale", ["quantile", "minmax"])
def test_training_rows_fill_the_range(scale: str):
    x = table(2000)
    z, _ = preprocess.apply(fitted(x, scale), x)
    varying = [0, 1, 2, 3, 5, 6]
    assert (z[:, varying].min(0) == -1).all()
    assert (z[:, varying].max(0) == 1).all()


@pytest.mark.parametrize("scale", ["quantile", "minmax", "standard", "none"])
def test_order_within_a_column_is_kept(scale: str):
    x = table(500)
    values = np.sort(np.concatenate([x, 2 * table(500, seed=3)]), axis=0)
    z, _ = preprocess.apply(fitted(x, scale), values)
    assert np.diff(z, axis=0).min() >= -2e-7


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scale", KINDS)
def test_every_flag(scale: str, policy: str):
    """Whatever the policy, infinities and empty rows never get a score, and nothing non-finite comes out."""
    x = table()[:, [0, 1, 2]]
    bad = np.array([[1, 2, 3], [NAN, 1, 2], [INF, 1, 2], [NAN, -INF, 2], [NAN, NAN, NAN], [2, 2, 2]], np.float32)
    scaler = fitted(x, scale, policy)
    z, flags = preprocess.apply(scaler, bad)
    constant = CONSTANT if scale == "gcn" else 0
    assert flags.tolist() == [0, NAN_INPUT, INF_INPUT, NAN_INPUT | INF_INPUT, NAN_INPUT | EMPTY, constant]
    assert flags.dtype == np.uint32
    assert np.isfinite(z).all()
    imputes = policy in ("median", "lowest")
    assert preprocess.unusable(scaler, flags).tolist() == [False, not imputes, True, True, True, scale == "gcn"]


@pytest.mark.parametrize(
    ("scale", "policy", "expected"),
    [
        ("quantile", "flag", 0),
        ("quantile", "median", 0),
        ("quantile", "lowest", -1.1),
        ("minmax", "median", -0.5),
        ("minmax", "lowest", -1.1),
        ("standard", "lowest", (-0.8 - 3) / np.sqrt(8)),
        ("none", "median", 2),
        ("none", "lowest", -0.8),
    ],
)
def test_missing_values(scale: str, policy: str, expected: float):
    x = np.array([[0], [1], [2], [4], [8]], np.float32)
    z, flags = preprocess.apply(fitted(x, scale, policy), np.array([[NAN]], np.float32))
    assert z[0, 0] == pytest.approx(expected, abs=1e-6)
    assert flags[0] == NAN_INPUT | EMPTY


def test_imputed_lies_below_every_training_value():
    x = table()
    for scale in ("quantile", "minmax", "standard", "none"):
        scaler = fitted(x, scale, "lowest")
        low = preprocess.apply(scaler, np.full((1, 7), NAN, np.float32))[0][0]
        z = preprocess.apply(scaler, x)[0]
        varying = np.ptp(x, axis=0) > 0
        assert (low[varying] < z.min(0)[varying]).all()


@pytest.mark.parametrize("scale", KINDS)
@pytest.mark.parametrize("nan", ["flag", "median", "lowest"])
def test_independent_of_the_batch(scale: str, nan: str):
    """Bit for bit: alone, in any batch, in any order and memory layout."""
    x = table(200, 37)
    x[::7, ::5] = NAN
    scaler = fitted(x, scale, nan)
    z, flags = preprocess.apply(scaler, x)
    alone = [preprocess.apply(scaler, x[i : i + 1]) for i in range(0, 200, 13)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in alone]), z[::13])
    np.testing.assert_array_equal(np.concatenate([part[1] for part in alone]), flags[::13])
    np.testing.assert_array_equal(preprocess.apply(scaler, np.asfortranarray(x))[0], z)
    np.testing.assert_array_equal(preprocess.apply(scaler, x[::-1])[0], z[::-1])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x = table(50)
    whole = preprocess.apply(fitted(x, "quantile"), x)[0]
    monkeypatch.setattr(features, "BLOCK", 20)
    monkeypatch.setattr(features, "FIT_BLOCK", 120)
    np.testing.assert_array_equal(preprocess.apply(fitted(x, "quantile"), x)[0], whole)


@pytest.mark.parametrize("scale", KINDS)
def test_same_under_jit(scale: str):
    x = table(64)
    x[3, 2], x[4, 0] = NAN, -INF
    scaler = fitted(x, scale, "lowest")
    scale_ = jax.jit(lambda params, x: preprocess.apply(scaler._replace(params=params), x, jnp))
    with jax.numpy_rank_promotion("raise"):
        z, flags = scale_(scaler.params, x)
        one, _ = scale_(scaler.params, x[5:6])
    expected, expected_flags = preprocess.apply(scaler, x)
    np.testing.assert_allclose(z, expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(flags, expected_flags)
    if scale == "gcn":  # a sum over the object, which XLA may order by the shape of the batch
        np.testing.assert_allclose(one[0], z[5], rtol=1e-6)
    else:
        np.testing.assert_array_equal(one[0], z[5])
    assert (z.dtype, flags.dtype) == (np.float32, np.uint32)


@pytest.mark.parametrize("scale", KINDS)
def test_one_row_and_one_column(scale: str):
    row, column = table(1), table(50)[:, :1]
    z, _ = preprocess.apply(fitted(row, scale), row)
    if scale in ("quantile", "minmax", "standard"):
        assert not z.any()
    z, flags = preprocess.apply(fitted(column, scale), column)
    assert z.shape == (50, 1)
    assert (flags == (CONSTANT if scale == "gcn" else 0)).all()


@pytest.mark.parametrize("scale", KINDS)
def test_no_rows_to_scale(scale: str):
    z, flags = preprocess.apply(fitted(table(), scale), np.zeros((0, 7)))
    assert z.shape == (0, 7)
    assert flags.shape == (0,)


@pytest.mark.parametrize("scale", KINDS)
def test_beyond_float32(scale: str):
    """Numbers that float32 cannot hold are infinite; sentinels that it just can are not."""
    x = np.array([[-3.4e38, 1], [0, 2], [3.4e38, 3], [1, 3]])
    scaler = fitted(x, scale, "lowest")
    z, flags = preprocess.apply(scaler, np.concatenate([x, [[1e39, 1]], [[-1e300, 1]]]))
    assert flags.tolist() == [0, 0, 0, 0, INF_INPUT, INF_INPUT]
    assert np.isfinite(z).all()


def test_overflow_in_the_scaling_is_flagged():
    scaler = fitted(np.array([[0], [1e-30]], np.float32), "minmax")
    z, flags = preprocess.apply(scaler, np.array([[1e30]]))
    assert (z[0, 0], flags[0]) == (0, INF_INPUT)


@pytest.mark.parametrize(
    ("x", "nan", "words"),
    [
        (np.zeros((0, 3)), "flag", "nothing to fit"),
        (np.zeros((3, 0)), "flag", "nothing to fit"),
        (np.zeros(3), "flag", "rows of an array"),
        (np.array([[1, NAN], [2, INF]]), "flag", "without any finite value.*\n.*flux"),
        (
            np.array([[1, NAN], [NAN, 3], [2, NAN]]),
            "error",
            r"missing values.*\n.*mag \(1 rows\), flux \(2 rows\)",
        ),
    ],
)
def test_what_cannot_be_fitted(x: np.ndarray, nan: str, words: str):
    with pytest.raises(DataError, match=words):
        preprocess.fit(x, Preprocess(nan=nan), names=("mag", "flux"))


def test_many_bad_columns_are_counted():
    with pytest.raises(DataError, match="column 9 and 15 more"):
        preprocess.fit(np.full((2, 25), NAN), Preprocess())


def test_another_number_of_features():
    with pytest.raises(DataError, match="expected: 7 features"):
        preprocess.apply(fitted(table(), "standard"), np.zeros((2, 6)))


def test_fit_leaves_its_input_alone():
    x = np.array([[3, INF], [1, 2]], np.float32)
    for values in (x, x[:1, :1], np.asfortranarray(x)):
        before = values.copy()
        fitted(values, "quantile")
        np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("scale", KINDS)
def test_saved_and_loaded(scale: str, tmp_path):
    scaler = fitted(table(), scale, "median")
    preprocess.save(scaler, tmp_path / "scaler.npz")
    again = preprocess.load(tmp_path / "scaler.npz")
    assert (again.kind, again.nan) == (scale, "median")
    x = table(20, seed=5)
    np.testing.assert_array_equal(preprocess.apply(again, x)[0], preprocess.apply(scaler, x)[0])
    preprocess.save(again, tmp_path / "again.npz")
    assert (tmp_path / "scaler.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_damage_is_found(tmp_path):
    """Every damage ends in a CorruptError, or leaves the scaler as it was (padding between members)."""
    path = tmp_path / "scaler.npz"
    scaler = fitted(table(20), "standard")
    preprocess.save(scaler, path)
    good = path.read_bytes()
    for damaged in (b"", b"not a scaler", good[:100], good[:-40]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match="scaler.npz"):
            preprocess.load(path)
    for position in range(0, len(good), 17):
        path.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        try:
            again = preprocess.load(path)
        except CorruptError:
            continue
        assert again[:2] == scaler[:2]
        assert all((again.params[key] == value).all() for key, value in scaler.params.items())


@pytest.mark.parametrize("change", [{"kind": "fourier"}, {"kind": None}, {"fill": None}, {"mean": None}])
def test_foreign_npz(change: dict, tmp_path):
    path = tmp_path / "scaler.npz"
    scaler = fitted(table(20), "standard")
    stored = {"kind": np.array("standard"), "nan": np.array("flag"), **scaler.params} | change
    np.savez(path, **{key: value for key, value in stored.items() if value is not None})
    with pytest.raises(CorruptError):
        preprocess.load(path)
    with pytest.raises(CorruptError):
        preprocess.load(tmp_path / "absent.npz")
