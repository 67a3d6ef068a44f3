"""Configurations: what is wrong with one is said by name, and what is written is read back."""

from __future__ import annotations

import pytest

from astroad_jax import config
from astroad_jax.errors import ConfigError
from astroad_jax.methods import METHODS, configure


def write(tmp_path, text: str | bytes):
    path = tmp_path / "run.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


WRONG = {
    "unknown table": ("[trian]\nseed = 1\n", ["unknown key 'trian'", "did you mean 'train'?"]),
    "unknown key": ("[train]\nbatchsize = 1\n", ["unknown key 'train.batchsize'", "did you mean 'batch_size'?"]),
    "two problems": ("[train]\nseeed = 1\nepochs = 0\n", ["seeed", "did you mean 'seed'?", "train.epochs = 0"]),
    "wrong type": ('[train]\nepochs = "many"\n', ["train.epochs = 'many'", "valid integer"]),
    "a number for a name": ("[data]\npath = 7\n", ["data.path = 7", "valid string"]),
    "a value for a table": ("train = 3\n", ["train = 3"]),
    "method is no table": ('method = "vae"\n', ["method = 'vae'"]),
    "unknown choice": ('[preprocess]\nscale = "log"\n', ["preprocess.scale = 'log'", "'quantile'"]),
    "out of range": ("[data]\ntest_fraction = 1.0\n", ["data.test_fraction = 1.0"]),
    "keys of a table at odds": ("[spectra]\nlow = 5000\nhigh = 4000\n", ["got: spectra: high must be above low"]),
    "broken": ("[train\n", ["not valid TOML", "line 1"]),
    "not text": (b"\xff\xfe\x00", ["no readable text file", "UTF-8"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_file_is_explained(tmp_path, case):
    text, expected = WRONG[case]
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        config.load(path)
    assert error.value.where == str(path)
    for words in expected:
        assert words in str(error.value)


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_what_is_no_file_is_an_error_and_never_the_defaults(tmp_path, name):
    with pytest.raises(ConfigError) as error:
        config.load(tmp_path / name)
    assert str(tmp_path) in error.value.where


@pytest.mark.parametrize("name", METHODS)
def test_unknown_hyper_parameter(name):
    with pytest.raises(ConfigError, match="did you mean 'latent'") as error:
        configure({"name": name, "lateent": 2})
    assert error.value.where == "method"


def test_keys_of_a_method_at_odds_are_said_in_words():
    with pytest.raises(ConfigError) as error:
        configure({"name": "vae", "likelihood": "ivar", "sigma": 0.5})
    assert "got: sigma is the fixed likelihood's" in str(error.value)
    assert "{" not in str(error.value)


@pytest.mark.parametrize("values", [{"name": "mcsvdd"}, {}])
def test_unknown_method(values):
    with pytest.raises(ConfigError, match="no such method") as error:
        configure(values)
    assert error.value.where == "method.name"
    assert "mcdsvdd" in error.value.fix


OVERRIDES = {
    "train.epochs=20": ("train", "epochs", 20),
    "train.balance=true": ("train", "balance", True),
    "data.path=my table.csv": ("data", "path", "my table.csv"),
    "data.path=a=b.fits": ("data", "path", "a=b.fits"),
    "data.label='17'": ("data", "label", "17"),
    'data.anomalies=["a", "b"]': ("data", "anomalies", ("a", "b")),
    " score.batch_size = 8": ("score", "batch_size", 8),
    "data.label=": ("data", "label", ""),
}


@pytest.mark.parametrize("text", OVERRIDES)
def test_override(text):
    table, key, value = OVERRIDES[text]
    assert getattr(getattr(config.load(None, [text]), table), key) == value


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.epochs"], "key=value"),
        (["=3"], "unknown key"),
        (["train=5", "train.epochs=3"], "no table"),
        (["train.epochs=3", "train.epochs.more=3"], "no table"),
        (["train.epocs=3"], "did you mean 'epochs'"),
    ],
)
def test_wrong_override(settings, words):
    with pytest.raises(ConfigError, match=words):
        config.load(None, settings)


def test_override_wins_over_the_file_and_leaves_it_alone(tmp_path):
    path = write(tmp_path, "[train]\nepochs = 7\nseed = 3\n")
    chosen = config.load(path, ["train.epochs=2", "method.latent=5"])
    assert (chosen.train.epochs, chosen.train.seed) == (2, 3)
    assert chosen.method == {"name": "mcdsvdd", "latent": 5}  # hyper-parameters alone are the default method's


@pytest.mark.parametrize("name", METHODS)
def test_full_configuration_of_every_method_round_trips(tmp_path, name):
    method = configure({"name": name}).model_dump()
    data = config.Data(path='a "quoted"\\ path\n\tü\x7f\x00.csv', features=("x", "y"), anomalies=("SN Ia",))
    whole = config.Run(data=data, method=method, train=config.Train(seed=2**40, balance=True))
    again = config.load(write(tmp_path, config.dumps(whole)))
    assert config.differences(whole, again.model_copy(update={"method": configure(again.method).model_dump()})) == []
    assert again.data == data
    assert configure(again.method) == configure(method)


@pytest.mark.parametrize("value", ["plain", 'a"b', "1.5", "[x", "a\\b", "true", 7, 0.25, True])
def test_setting_is_read_back(value):
    assert config.override({}, [config.setting("a.b", value)]) == {"a": {"b": value}}


def test_differences_name_every_key():
    old = config.load(None, ["train.epochs=3"])
    new = config.load(None, ["train.epochs=4", 'data.ignore=["x"]', "method.latent=3"])
    assert config.differences(old, old) == []
    assert config.differences(old, new) == [
        "data.ignore: was [], now ['x']",
        "method.latent: was None, now 3",
        "train.epochs: was 3, now 4",
    ]


def test_configurations_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        config.Run().train.epochs = 3


@pytest.mark.parametrize(
    ("given", "expected"), [("QSO", ("QSO",)), ('["a","b"]', ("a", "b")), ("3", ("3",)), ("[3,4]", ("3", "4"))]
)
def test_names_may_come_bare(given, expected):
    assert config.load(None, [f"data.anomalies={given}"]).data.anomalies == expected


def test_every_public_name_is_there():
    import astroad_jax

    for name in astroad_jax.__all__:
        assert getattr(astroad_jax, name) is not None
