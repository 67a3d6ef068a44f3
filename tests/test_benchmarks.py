"""The benchmarks run, write the rows they promise, and compare the same work."""

from __future__ import annotations

import importlib
import json
import math

import jax
import numpy as np
import pytest

from astroad_jax.engine import train
from astroad_jax.engine.feed import resident
from astroad_jax.errors import ConfigError
from benchmarks import common

TINY = {
    "train_step": ['cases=["mcdsvdd"]'],
    "score_throughput": ['cases=["autoencoder-1024"]', "batches=[1,3]", "pyod=false"],
    "latent_search": ["size=8", "batches=[2]"],
    "gan_step": ["size=8"],
    "catalog": ['cases=["dense"]', "memory=[500]", "pieces=[2]"],
    "spectra": ["pixels=300", "bins=40", "rows=[60]", "grow=[60]", "batches=[3]"],
    "spectra_vae": ["hidden=[6]", "batches=[1]", "repeats=1"],
}
KEYS = {"benchmark", "case", "metric", "value", "unit", "against", "ratio", "spread"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Tiny products on a busy machine spend their time in waiting threads."""
    torch = common.optional_torch()
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=sorted(TINY))
def written(request, tmp_path_factory):
    """A benchmark's name, its rows as written, and its head."""
    path = tmp_path_factory.mktemp("benchmarks") / "rows.json"
    module = importlib.import_module(f"benchmarks.{request.param}")
    rows = module.main(["--smoke", "--json", str(path), *TINY[request.param]])
    assert rows
    head = json.loads(path.with_name("rows.json.head.json").read_text())
    return request.param, json.loads(path.read_text()), head


def test_every_row_keeps_the_contract(written):
    name, rows, _ = written
    for row in rows:
        assert set(row) >= KEYS
        assert row["benchmark"] == name
        assert math.isfinite(row["value"])
        assert math.isfinite(row["spread"])
        assert (row["against"] is None) == (row["ratio"] is None)


def test_the_head_says_where_and_with_what(written):
    _, _, head = written
    assert {"date", "cpu", "cores", "device", "versions", "settings", "smoke", "torch_threads"} <= set(head)
    assert head["smoke"] is True
    assert head["versions"]["jax"]


def test_there_is_a_peer_where_torch_is_installed(written):
    name, rows, _ = written
    if name == "spectra":
        pytest.skip("its peers are no networks")
    peers = {row["against"] for row in rows if row["against"]}
    assert any("PyTorch" in peer for peer in peers) == (common.optional_torch() is not None)


def test_both_sides_train_to_comparable_losses():
    """Same data, networks, updates and steps: what is compared is the same work."""
    pytest.importorskip("torch")
    from benchmarks import train_step

    settings = ['cases=["dasvdd-pima"]', "steps=160", "call=20", "batch=100", "rows=400", "members=2"]
    rows = {row["metric"]: row for row in train_step.main(["--smoke", *settings])}
    start, end = rows["loss at the start"], rows["loss at the end"]
    for key in ("value", "against_value"):
        assert end[key] < 0.7 * start[key]
    assert 0.4 < end["ratio"] < 2.5


def test_both_sides_fill_alike():
    """The fast infill is the plain loop's, up to its shrinkage, where noise is small."""
    from benchmarks import spectra

    rows = spectra.main(["--smoke", 'cases=["infill"]', "rows=[300]", "bins=60", "components=8", "rounds=4", "repeats=1"])
    apart = next(row["value"] for row in rows if row["metric"] == "difference of the infills")
    assert apart < 0.03


@pytest.mark.parametrize("case", ["dasvdd-mnist", "autoencoder-256", "mcdsvdd", "vae"])
def test_both_sides_have_the_same_networks(case):
    """As many parameters, of the same sizes."""
    pytest.importorskip("torch")
    from benchmarks import cases, peers

    found = cases.CASES[case]._replace(rows=1024)
    feed = cases.feed(found)
    batch = train.pick(feed.data, next(feed.batches(0)))
    state = jax.eval_shape(cases.method(found, feed, 1).stages[0].init, jax.random.key(0), batch, None)
    for name, theirs in zip(("encoder", "decoder"), peers.pair(found)):
        ours = jax.tree.leaves(getattr(state, name)["params"])
        assert sorted(leaf.size for leaf in ours) == sorted(values.numel() for values in theirs.parameters())


def test_both_sides_search_alike():
    """Same weights, same start: the lowest losses agree, and so do the generators and the critics."""
    torch = pytest.importorskip("torch")
    from astroad_jax.methods import latent_search, wgan_gp
    from benchmarks import image_cases, image_peers

    made = image_cases.nets(4, 16, 3, "float32", latent=6, iterations=12)
    x, z = image_cases.galaxies(3, 16, 3), np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    trained = wgan_gp.trained(made.state)
    theirs = image_peers.Searcher(made.pair, trained, made.config)
    fake = made.pair.generator.apply(trained.generator, z)
    with torch.no_grad():
        np.testing.assert_allclose(theirs.generator(torch.from_numpy(z)).permute(0, 2, 3, 1), fake, atol=1e-5)
        said = theirs.critic(torch.from_numpy(x).permute(0, 3, 1, 2))
    np.testing.assert_allclose(said, made.pair.critic.apply(trained.critic, x), atol=1e-5)
    search = latent_search.latent_search(made.pair, wgan_gp.trained, made.config, lambda state, x: z[0])
    example = {"x": x[0]}
    carry = search.init(jax.random.key(0), made.state, example)
    step = jax.jit(search.step)
    for _ in range(12):
        carry = step(made.state, example, carry)
    assert theirs.run(x[:1], z[:1], 12)[0] == pytest.approx(float(carry.loss), rel=1e-3)


def test_both_sides_move_the_critic_alike():
    """One step from the same weights: the loss without the penalty's random mixing is the same."""
    torch = pytest.importorskip("torch")
    from benchmarks import image_cases, image_peers

    made = image_cases.nets(4, 16, 1, "float32", latent=6, n_critic=2, penalty=0.0)
    x = image_cases.galaxies(64, 16, 1)
    trainer = image_peers.Trainer(made.pair, made.state, made.config)
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    losses = [float(trainer.step(images)) for _ in range(4)]
    fake = made.pair.generator.apply(made.state.generator, np.random.default_rng(0).standard_normal((64, 6)))
    says = lambda images: float(made.pair.critic.apply(made.state.critic, images).mean())  # noqa: E731
    assert losses[0] == pytest.approx(says(fake) - says(x), abs=0.05)
    assert losses[-1] < losses[0]


def test_both_sides_train_and_score_spectra_alike():
    """Same weights: the same scores, but for the draws; and from there losses that fall as far."""
    torch = pytest.importorskip("torch")
    from benchmarks import spectra_peers, spectra_vae

    settings = spectra_vae.Settings(**{**spectra_vae.SMOKE, "rows": 256, "samples": 2000})
    method, state = spectra_vae.started(settings, settings.samples)
    theirs = spectra_peers.Autoencoder(spectra_vae.config(settings, settings.samples), jax.device_get(state))
    x = spectra_vae.spectra(settings.rows, settings.pixels)
    score = jax.jit(method.score)
    mine = [score(jax.random.key(0), state, {"x": row}) for row in x[:5]]
    expected = method.stages[0].validate(state, {"x": x})
    np.testing.assert_allclose(theirs.validate(torch.from_numpy(x)), expected, rtol=1e-4)
    for name, values in theirs.score(x[:5]).items():
        rtol = 0.15 if name == "probability" else 1e-4
        np.testing.assert_allclose([found[name] for found in mine], values, rtol=rtol, err_msg=name)
    feed = resident({"x": x}, seed=0, batch_size=settings.batch)
    long = spectra_vae.vae.build(spectra_vae.config(settings, 1), spectra_vae.plan(settings, 300))
    losses = [row["loss"] for row in train.fit(long, feed, log_every=20).metrics]
    _, others = theirs.train(x, settings.batch, 300, 20)
    assert losses[-1] < 0.7 * losses[0]
    assert losses[-1] == pytest.approx(np.mean(others[-20:]), rel=0.3)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_peer_starts_where_the_training_does(seed):
    """A training of one step that changes nothing ends with what the peer is given."""
    from benchmarks import spectra_vae

    settings = spectra_vae.Settings(**spectra_vae.SMOKE)
    method = spectra_vae.vae.build(spectra_vae.config(settings, 1), spectra_vae.plan(settings, 1))
    feed = spectra_vae.feed_of(settings)
    assert len(feed.data["valid"]["x"]) == len(feed.data["x"]) // 3
    still = method.stages[0]._replace(step=lambda key, state, batch: (state, {"loss": state.opt.value}))
    done = train.fit(method._replace(stages=(still,)), feed, seed=seed)
    for ours, theirs in zip(*map(jax.tree.leaves, (done.state, spectra_vae.starting(method, feed)(seed)))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_peers_rate_falls_as_ours_does():
    """After so many epochs without improvement, each ended by a pass over the held-out rows."""
    pytest.importorskip("torch")
    from benchmarks import spectra_peers, spectra_vae

    settings = spectra_vae.Settings(**spectra_vae.SMOKE)
    config, feed = spectra_vae.config(settings, 1), spectra_vae.feed_of(settings)
    method = spectra_vae.vae.build(config, spectra_vae.plan(settings, 1))
    theirs = spectra_peers.Autoencoder(config, jax.device_get(spectra_vae.starting(method, feed)(0)))
    theirs.validate = lambda x: 1.0
    x, valid, rates = feed.data["x"], feed.data["valid"]["x"], []
    for _ in range(2 * config.plateau + 1):
        theirs.train(x, settings.batch, len(x) // settings.batch, 1, valid)
        rates.append(theirs.opt.param_groups[0]["lr"] / config.learning_rate)
    np.testing.assert_allclose(rates, [1] * config.plateau + [0.1] * config.plateau + [0.01], rtol=1e-6)


def test_multiplications_of_the_papers_networks():
    """The sizes that the throughput is held against."""
    from benchmarks import image_cases

    made = image_cases.nets(32, 64, 1, "float32")
    expected = [image_cases.macs(net, 64, 1, 100) for net in made.pair[:2]]
    assert [round(count / 1e6) for count in expected] == [174, 45]


@pytest.mark.parametrize(("higher", "ratio"), [(True, 2.0), (False, 0.5)])
def test_a_ratio_above_one_is_a_gain(higher, ratio):
    row = common.row(
        "b",
        "c",
        "m",
        "s",
        common.Spread(4.0, 0.0),
        peer=common.Spread(2.0, 0.0),
        against="peer",
        higher_is_better=higher,
    )
    assert row["ratio"] == ratio


def test_calls_are_timed_in_turn():
    order = []
    times = common.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert [len(values) for values in times.values()] == [3, 3]
    assert order[-6:] == ["a", "b"] * 3


def test_median_and_interquartile_range():
    assert common.spread(np.arange(5.0)) == (2.0, 2.0)


def test_an_unknown_setting_is_refused():
    from benchmarks import score_throughput

    with pytest.raises(ConfigError, match="batchs"):
        score_throughput.main(["--smoke", "batchs=[1]"])
