"""The experiments run, keep their contract, and their protocols are what the papers say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from astroad_jax.errors import AstroadError
from experiments import calibration, common, dasvdd, mcdsvdd

KEYS = {"dataset", "case", "method", "metric", "mean", "std", "runs", "paper"}
TINY = ["hidden=[8]", "latent=2"]


def check_contract(out) -> list[dict]:
    rows = json.loads((out / "results.json").read_text())
    assert rows
    assert all(set(row) == KEYS for row in rows)
    assert all(0 <= row["mean"] <= 1 for row in rows)
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two small data sets in the two layouts: a table of normals and anomalies, and split images of three classes."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(120, 5)), rng.normal(4.0, 1.0, size=(20, 5))])
    np.savez(root / "blobs.npz", X=x, y=np.arange(140) >= 120)
    (root / "images").mkdir()
    y = np.arange(90) % 3
    images = (rng.random((90, 4, 4)) * 60 + 60 * y[:, None, None]).astype(np.uint8)
    np.savez(root / "images" / "mnist_small.npz", x_train=images[:60], y_train=y[:60], x_test=images[60:], y_test=y[60:])
    features = rng.normal(size=(160, 6)).astype(np.float32) + 2.0 * (np.arange(160) % 4)[:, None]
    features[::11, 2] = np.nan
    np.savez(root / "stars.npz", x=features, y=np.array(["a", "b", "c", "d"])[np.arange(160) % 4])
    return root


def test_dasvdd_on_a_table(data, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path), "dataset=blobs", "epochs=3", "seeds=3"]
    dasvdd.main([*arguments, 'methods=["dasvdd","isolation_forest"]'])
    rows = check_contract(tmp_path)
    assert {row["method"] for row in rows} == {"dasvdd", "isolation_forest"}
    assert all(row["runs"] == 3 for row in rows)
    before = (tmp_path / "runs.jsonl").read_text()
    dasvdd.main(arguments)  # everything is there already
    assert (tmp_path / "runs.jsonl").read_text() == before


def test_dasvdd_one_class_normal(data, tmp_path):
    dasvdd.main(
        [
            "--data",
            str(data),
            "--out",
            str(tmp_path),
            "--smoke",
            "dataset=mnist_small",
            "classes=[0,2]",
            "batch_size=10",
        ]
        + ["study=table3", "dasvdd.hidden=[8]", "dasvdd.latent=2"]
    )
    rows = check_contract(tmp_path)
    assert {(row["case"], row["method"]) for row in rows} == {
        (case, method) for case in ("0", "2", "mean") for method in ("dasvdd", "dasvdd fixed centre")
    }
    # The paper's means are over ten classes: they are not put beside a mean over two.
    assert [(row["paper"], row["std"], row["runs"]) for row in rows if row["case"] == "mean"] == [(None, None, None)] * 2


def test_mean_is_compared_with_the_papers_over_the_same_classes():
    settings = dasvdd.Settings()
    assert dasvdd._mean(settings, "dasvdd", ["0", "8"]) == pytest.approx((0.997 + 0.942) / 2)
    assert dasvdd._mean(settings, "something else", ["0", "8"]) is None
    table3 = dasvdd.Settings(study="table3")
    ten = [str(number) for number in range(10)]
    assert dasvdd._mean(table3, "dasvdd", ten) == pytest.approx(0.977)
    assert dasvdd._mean(table3, "dasvdd fixed centre", ten) == pytest.approx(0.952)
    assert dasvdd._mean(table3, "autoencoder", ten) is None


def test_a_torn_line_is_dropped_before_the_next_is_written(tmp_path):
    settings = dasvdd.Settings()
    common.Results(tmp_path, settings, ["dataset"]).add(case="0", auroc=0.5)
    with open(tmp_path / "runs.jsonl", "a") as stream:
        stream.write('{"case": "1", "au')
    again = common.Results(tmp_path, settings, ["dataset"])
    again.add(case="1", auroc=0.6)
    again.add(case="2", auroc=0.7)
    assert [run["case"] for run in common.Results(tmp_path, settings, ["dataset"]).runs] == ["0", "1", "2"]


def test_what_a_study_compares_is_what_it_sets():
    settings = dasvdd.Settings(study="gamma", dasvdd={"gamma": 0.75, "hidden": (8,)})
    for extra in dasvdd.variants(settings).values():
        method = dasvdd._method(settings, "dasvdd", dasvdd.SMALL, extra).__closure__[0].cell_contents
        assert method.gamma == extra.get("gamma", 0.75)
        assert method.hidden == (8,)


@pytest.mark.parametrize("study", ["gamma", "runs", "kappa", "latent"])
def test_every_ablation_has_variants_that_configure(study):
    from astroad_jax.methods import configure

    settings = dasvdd.Settings(study=study)
    found = dasvdd.variants(settings)
    assert len(found) >= 5
    for extra in found.values():
        configure({"name": "dasvdd", **extra})


def test_p_values_of_held_out_inliers(data, tmp_path):
    command = ["--smoke", "--data", str(data), "--out", str(tmp_path), 'datasets=["stars","mnist_small"]', "seeds=1"]
    calibration.main(command)
    rows = json.loads((tmp_path / "results.json").read_text())
    found = {(row["dataset"], row["metric"]): row["mean"] for row in rows}
    assert found["stars", "held out"] == 40
    assert found["stars", "calibration"] == 40
    assert found["mnist_small", "flagged at 10%"] <= 0.5
    assert 0 < found["stars", "exchangeable"] <= 1
    assert {row["metric"] for row in rows} >= {"uniform", "inside at 10%"}


def test_published_split_is_mostly_anomalies(shared_data):
    """The 2021 split of PIMA: 307 test rows, 268 of them anomalies, 461 normal training rows."""
    held = common.dataset("pima", shared_data)
    case = next(dasvdd.cases(dasvdd.Settings(dataset="pima", split="published", seeds=1), held))
    assert (len(case.x), len(case.x_test), int(case.positive.sum())) == (461, 307, 268)
    own = next(dasvdd.cases(dasvdd.Settings(dataset="pima", seeds=1), held))
    assert (len(own.x), int(own.positive.sum()), int((~own.positive).sum())) == (300, 268, 200)


def test_mcdsvdd_runs(data, tmp_path):
    mcdsvdd.main(
        ["--data", str(data), "--out", str(tmp_path), "dataset=stars", "epochs=2", "folds=2", "batch_size=32"]
        + ["all.hidden=[8]", "all.latent=2", 'hidden=["a","b"]']
    )
    rows = check_contract(tmp_path)
    methods = {row["method"] for row in rows if row["metric"] == "auroc"}
    assert methods == {"isolation_forest", "ocsvm", "autoencoder", "vae", "deep_svdd", "mcdsvdd"}
    assert sum(row["metric"] == "p_corrected" for row in rows) == 2


@pytest.mark.parametrize(("outliers", "inliers"), [(40, 90), (5, 900), (200, 91)])
def test_second_test_set_has_exactly_a_tenth_outliers(outliers, inliers):
    inlier = np.arange(outliers + inliers) >= outliers
    everything = np.arange(outliers + inliers)
    test, spare = (
        np.concatenate([everything[: outliers // 5], everything[outliers:]]),
        everything[outliers // 5 : outliers],
    )
    rows, positive = mcdsvdd.second_test_set(inlier, test, spare, seed=3)
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_array_equal(positive, ~inlier[rows])
    assert abs(positive.mean() - 0.1) < 0.5 / len(rows) + 1e-9


def test_hidden_class_never_trains(data):
    settings = mcdsvdd.Settings(dataset="stars", folds=2)
    held = mcdsvdd.table(settings, data)
    for case in mcdsvdd.cases(settings, held, "all"):
        assert len(np.unique(case.y)) == 3
        assert len(case.x) + len(case.x_valid) == 96
        assert np.abs(case.x).max() <= 1.1 + 1e-6


def test_alerce_schema(shared_data, tmp_path):
    """The paper's own columns, NaNs included, on a sample too small to train anything worth measuring."""
    settings = mcdsvdd.Settings(dataset="alerce_features_98", min_members=5)
    held = mcdsvdd.table(settings, shared_data)
    assert held.x.shape[1] == 178
    assert np.isnan(held.x).mean() > 0.1
    assert all(len(classes) > 2 for classes in held.groups.values())
    case = next(mcdsvdd.cases(settings, held, next(iter(held.groups))))
    assert np.isfinite(case.x).all()
    assert np.isfinite(case.x_test).all()


def test_paper_tables_are_consistent():
    """The papers' averages are those of their columns, to their rounding."""
    for figures in dasvdd.PAPER.values():
        if len(figures) == 11:
            assert np.mean(figures[:10]) == pytest.approx(figures[10], abs=0.35)
    assert all(len(row) == len(mcdsvdd.CLASSES) for row in mcdsvdd.PAPER.values())


def test_unknown_data_set_and_key(tmp_path):
    with pytest.raises(AstroadError, match="nosuch.npz"):
        common.dataset("nosuch", tmp_path)
    with pytest.raises(AstroadError, match="did you mean 'epochs'"):
        dasvdd.main(["epoch=3"])


def test_wrong_arrays_are_named(tmp_path):
    np.savez(tmp_path / "odd.npz", a=np.zeros(3))
    with pytest.raises(AstroadError, match="x_train, y_train, x_test, y_test"):
        common.dataset("odd", tmp_path)
