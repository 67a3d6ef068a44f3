"""The command line. Imports of jax, tensorflow, scikit-learn and matplotlib wait until a verb needs them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from astroad_jax import __version__
from astroad_jax.errors import (
    EXIT_BUG,
    EXIT_CORRUPT,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_QUARANTINED,
    AstroadError,
    StorageError,
)

HELP = """Find the strange objects of a survey.

Exit codes: 0 done · 1 a defect of this program · 2 input or configuration to put right · 3 done, but some inputs were
quarantined · 4 interrupted, the same command resumes · 5 saved state does not match its checksums."""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as train.epochs=20")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]


def _version(asked: bool) -> None:
    if asked:
        print(f"astroad_jax {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")] = False,
) -> None:
    del version


@contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Turn errors that a user can act on into a message and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        yield
    except AstroadError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    except OSError as error:  # a full disk, a limit, a vanished mount
        if debug:
            raise
        print(f"error: {StorageError('a file could not be read or written', got=error)}", file=sys.stderr)
        raise typer.Exit(EXIT_INPUT) from error
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from error


@app.command()
def quickstart(
    settings: Settings = None,
    data: Annotated[str | None, typer.Option("--data", metavar="FILE", help="your own table, or else a mock survey")] = None,
    out: Annotated[Path, typer.Option("--out", help="directory for run, scores and figures")] = Path("quickstart"),
    debug: Debug = False,
) -> None:
    """Train, score, evaluate and draw, on a mock survey or on your own table."""
    with _errors(debug):
        from astroad_jax.app import words
        from astroad_jax.app.quickstart import quickstart as run

        tour = run(data, out, settings or [], progress=True)
        words.show(tour.evaluation)
        print(f"\nmodel   {tour.run}\nscores  {tour.scores}")
        words.figures(tour.evaluation)


@app.command()
def inspect(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="tables to look at")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="such as data.label=class")
    ] = None,
    debug: Debug = False,
) -> None:
    """Say what tables hold and what is wrong with them, and print a configuration to start from."""
    with _errors(debug):
        from astroad_jax import config
        from astroad_jax.app import inspection, words
        from astroad_jax.data import open_source

        chosen = config.load(None, settings or [])
        for path in files:
            source = open_source(path, size=chosen.data.size, spectra=chosen.spectra)
            found = inspection.inspect(source, chosen.data, chosen.spectra)
            text = config.dumps(inspection.suggest(found, chosen.data, chosen.spectra))
            print(words.table_report(found))
            print(text if path == files[0] else words.commented(text))  # one configuration a file


@app.command()
def keys(
    method: Annotated[str, typer.Argument(metavar="[METHOD]", help="whose hyper-parameters")] = "mcdsvdd",
    debug: Debug = False,
) -> None:
    """Print every key of a configuration with its default and meaning, as TOML."""
    with _errors(debug):
        from astroad_jax.app.reference import reference

        print(reference(method), end="")


@app.command()
def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG.toml] [KEY=VALUE]...", help="a configuration, and overrides"),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="FILE", help="table to train on (data.path)")] = None,
    out: Annotated[Path, typer.Option("--out", help="run directory; an unfinished run there is resumed")] = Path("run"),
    origin: Annotated[Path | None, typer.Option("--from", help="begin at a run's end, or at its checkpoints/step_N")] = None,
    debug: Debug = False,
) -> None:
    """Train a model; the same command resumes a run that was stopped.

    --from begins a new run with what another has learned; epochs and learning rates may then be others.
    """
    with _errors(debug):
        from astroad_jax import config
        from astroad_jax.app.launch import join_cluster

        path, overrides = config.split(settings or [])
        chosen = config.load(path, [*overrides, *([config.setting("data.path", data)] if data else [])])
        join_cluster()
        _train(chosen, out, origin)


def _train(chosen: Any, out: Path, origin: Path | None) -> None:
    from astroad_jax import data as tables
    from astroad_jax.app import words
    from astroad_jax.app.launch import is_primary
    from astroad_jax.app.training import train as run
    from astroad_jax.errors import ConfigError

    if not chosen.data.path:
        raise ConfigError("no table to train on", where="data.path", fix="give --data FILE, or set data.path")
    source = tables.open_source(chosen.data.path, size=chosen.data.size, spectra=chosen.spectra)
    fitted = run(source, chosen, out, progress=is_primary(), origin=origin)
    if is_primary():
        words.trained(out, fitted.metrics)


@app.command()
def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a trained model")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="tables, directories of them, quoted patterns, HATS catalogues"),
    ],
    out: Annotated[Path, typer.Option("--out", help="score directory")] = Path("scores"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="such as data.id=name or score.batch_size=512")
    ] = None,
    debug: Debug = False,
) -> None:
    """Score tables to Parquet, one file each; files already scored are left alone.

    Stopped or killed, the same command goes on; astroad status tells how far it is.
    """
    with _errors(debug):
        from astroad_jax.app import bundle, scoring, words
        from astroad_jax.app.launch import is_primary, join_cluster

        join_cluster()
        report = scoring.score(bundle.load(run, settings or []), inputs, out, progress=is_primary())
        if not is_primary():
            return
        words.scored(report, scoring.FLAG_NAMES, "files")
        words.earlier(report)
        raise typer.Exit(EXIT_QUARANTINED if report.quarantined else EXIT_OK)


@app.command()
def hats(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a trained model")],
    catalog: Annotated[str, typer.Argument(metavar="CATALOG", help="catalogue in HATS format")],
    out: Annotated[Path, typer.Option("--out", help="the catalogue of scores to be")] = Path("scores"),
    workers: Annotated[int, typer.Option("--workers", min=0, help="processes on this machine; 0: this one alone")] = 0,
    scheduler: Annotated[str, typer.Option("--scheduler", metavar="ADDRESS", help="of a Dask cluster to use instead")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="such as data.id=name")] = None,
    debug: Debug = False,
) -> None:
    """Score a catalogue in HATS format into another one, with LSDB and Dask; the same command goes on with what is left."""
    with _errors(debug):
        from astroad_jax.app import hats_survey, words
        from astroad_jax.app.hats import score_hats

        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # read as Dask is imported, here and by the workers
        with hats_survey.cluster(workers, scheduler):
            report = score_hats(run, catalog, out, overrides=settings or [], progress=True)
        words.scored(report, report.names, f"partitions ({report.lost} rows)")
        raise typer.Exit(EXIT_QUARANTINED if report.quarantined else EXIT_OK)


@app.command()
def status(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="run or score directory")],
    debug: Debug = False,
) -> None:
    """Say how far a training or scoring command is that runs elsewhere, or was stopped."""
    with _errors(debug):
        from astroad_jax.app import words
        from astroad_jax.app.status import status as look

        for name, value in look(directory).items():
            print(f"{name:18s} {words.number(value)}")


@app.command()
def verify(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="of runs, scores, explanations, exports")],
    debug: Debug = False,
) -> None:
    """Compute every checksum of runs, scores, explanations and exports anew, and name what does not match."""
    with _errors(debug):
        from astroad_jax.app import words
        from astroad_jax.app.verifying import verify as check

        wrong = 0
        for directory in directories:
            found = check(directory)
            words.verified(directory, found)
            wrong += len(found.problems)
        raise typer.Exit(EXIT_CORRUPT if wrong else EXIT_OK)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of the model")],
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="score directory")],
    everything: Annotated[bool, typer.Option("--all", help="measure on training rows as well")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="such as score.false_alarm_rate=0.1")
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure and draw a score directory: ROC, histogram with thresholds, training curves, the strangest objects."""
    with _errors(debug):
        from astroad_jax.app import bundle, words
        from astroad_jax.app.evaluation import evaluate as measure

        found = measure(bundle.load(run, settings or []), run, scores, held_out_only=not everything)
        words.show(found)
        words.figures(found)


@app.command()
def select(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of the model")],
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="score directory")],
    fdr: Annotated[float | None, typer.Option("--fdr", help="share of those taken that may be false")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="share of ordinary objects that may be taken")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="write them (.parquet or .csv)")] = None,
    debug: Debug = False,
) -> None:
    """Take the strange objects of a catalogue by a rate of false ones, and say how many of these to expect."""
    with _errors(debug):
        from astroad_jax.app import bundle, selecting, tables, words

        if out is not None:
            tables.check_format(out, "--out")
        found = selecting.select(bundle.load(run), scores, discovery=fdr, alarm=rate)
        for name, value in found.measures.items():
            print(f"{name:26s} {words.number(value)}")
        if out is not None:
            tables.write(out, found.table)
            print(f"{'selection':26s} {out}")


@app.command()
def rank(
    scores: Annotated[list[Path], typer.Argument(metavar="SCORES...", help="score directories")],
    run: Annotated[Path, typer.Option("--run", help="run directory of the model that made the scores")],
    labels: Annotated[
        Path, typer.Option("--labels", metavar="FILE", help="where labels are kept; a table without ids needs its own")
    ] = Path("labels.sqlite"),
    top: Annotated[int | None, typer.Option("--top", min=1, help="objects to show, or to export, at most")] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="labels after which all is ranked anew")] = 10,
    pictures: Annotated[Path, typer.Option("--pictures", metavar="DIR", help="for the pictures")] = Path("pictures"),
    blind: Annotated[bool, typer.Option("--no-pictures", help="draw none")] = False,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="ID=VALUE", help="set one; -1 takes it back")] = None,
    export: Annotated[Path | None, typer.Option("--export", metavar="FILE", help="the ranking (.parquet or .csv)")] = None,
    by: Annotated[str, typer.Option("--by", metavar="COLUMN", help="of the score files, or lof, combined, any")] = "score",
    scale: Annotated[str, typer.Option("--scale", help="minmax, or rank where a few scores dwarf all others")] = "minmax",
    alpha: Annotated[float, typer.Option("--alpha", min=0.0, help="how soon a label's reach ends; 0.1: further")] = 1.0,
    who: Annotated[str, typer.Option("--who", metavar="NAME", help="kept with each label")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="as astroad score had it")] = None,
    debug: Debug = False,
) -> None:
    """Label the strangest objects from 0 (of no interest) to 5 (wanted); the rest is ranked by what you look for.

    Each answer is stored at once: stop whenever you like, the same command goes on.
    """
    with _errors(debug):
        from astroad_jax.app import asking, bundle, ranking

        ranking.check(scale, export)
        given = [asking.given(text) for text in label or []]
        silent = bool(given) or export is not None
        asking.check_terminal(silent or (sys.stdin is not None and sys.stdin.isatty()))
        model = bundle.load(run, settings or [])
        objects = ranking.open_objects(model, scores, by)
        options = asking.Options(
            labels, None if blind else pictures, every, top, scale, alpha, who or os.environ.get("USER", "")
        )
        if given:
            asking.set_labels(objects, given, options)
        known = asking.known_labels(objects, labels, print)
        if export is not None:
            relevance = ranking.relevance(model, objects, known, scale, alpha)
            rows = ranking.export(export, objects, relevance, known, top)
            print(f"ranking  {export}, {rows} rows")
        if not silent:
            ended = asking.converse(model, objects, known, options, input, print)
            print(f"\nshown {ended.asked}  labelled {ended.given}  labels {labels}")


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of the model that made the scores")],
    scores: Annotated[list[Path], typer.Argument(metavar="SCORES...", help="score directories")],
    top: Annotated[int, typer.Option("--top", min=1, help="objects to explain, the strangest")] = 20,
    ids: Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="explain this object instead")] = None,
    out: Annotated[Path, typer.Option("--out", help="directory for page, pictures and numbers")] = Path("explained"),
    neighbours: Annotated[int, typer.Option("--neighbours", min=0, help="nearest training objects of each")] = 5,
    noise_rows: Annotated[int | None, typer.Option("--noise-rows", min=0, help="training objects behind one sigma")] = None,
    training: Annotated[
        str, typer.Option("--training", metavar="FILE", help="the training table, if it is not where it was")
    ] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="as astroad score had it")] = None,
    debug: Debug = False,
) -> None:
    """Say why the strangest objects are strange: what contributes to their scores, residuals in sigma, the nearest known."""
    with _errors(debug):
        from astroad_jax.analysis.report import table
        from astroad_jax.app import bundle, explained, explaining

        model = bundle.load(run, settings or [])
        options = explaining.Options(top, tuple(ids or ()), neighbours, noise_rows, training)
        page, rows, found = explained.explain(out, model, run, scores, options, progress=True)
        print(table(rows, ("rank", "object_id", "score", "p_value", "flags", "remark"), digits=5))
        print(f"\nexplained {len(rows)} of {found.among}  not adding up to the score {int((~found.complete).sum())}")
        print(f"page      {page}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a trained model")],
    out: Annotated[Path, typer.Option("--out", help="directory to make, or an earlier export to replace")] = Path("export"),
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="such as score.slots=256")] = None,
    debug: Debug = False,
) -> None:
    """Write a model that scores elsewhere, with jax and numpy alone; its scores are compared with ours first."""
    with _errors(debug):
        from astroad_jax.app import exporting, words

        words.exported(exporting.export(run, out, settings or [], progress=True))


def main() -> None:
    """Entry point of ``astroad``."""
    call: Callable[[], None] = app
    try:
        call()
    except Exception:  # not foreseen: a defect, shown whole
        import traceback

        traceback.print_exc()
        print("this is a defect of astroad_jax; please report it with the lines above", file=sys.stderr)
        sys.exit(EXIT_BUG)
