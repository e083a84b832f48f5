"""What each verb of the command line does: load the config, call one function, say the result."""

from __future__ import annotations

import argparse
import json
import os
import signal
from typing import TYPE_CHECKING

from rtl.errors import ConfigError

if TYPE_CHECKING:
    from rtl.config.tree import Config
    from rtl.runs.run import Result


def load(arguments: argparse.Namespace) -> Config:
    """The config that a command line asks for."""
    from rtl.config import loading

    settings = loading.load(arguments.recipe, arguments.overrides)
    if arguments.storage:
        settings = settings.replace(storage=arguments.storage)
    if getattr(arguments, "data", None):
        settings = settings.replace(data={"uri": arguments.data})
    if getattr(arguments, "budget", None):
        minutes = loading.minutes(arguments.budget)
        settings = settings.replace(search={"budget_minutes": minutes})
    if arguments.verb in ("train", "search") and arguments.name:
        settings = settings.replace(name=arguments.name)
    return settings


def _connect() -> None:
    from rtl.cli import console
    from rtl.runtime import session

    with console.busy("Starting Ray"):
        session.connect()


def config(arguments: argparse.Namespace) -> None:
    """Prints the effective config, each key with what it decides."""
    from rtl.cli import console
    from rtl.config import loading

    console.write(loading.to_yaml(load(arguments), arguments.only, comments=True))


def pack(arguments: argparse.Namespace) -> None:
    """Packs a source, and tells what was left out."""
    from rtl.cli import console, progress_views
    from rtl.data import pack

    settings = load(arguments)
    with progress_views.Bars() as bars:
        manifest = pack.pack(arguments.source, arguments.dest, settings.pack, bars)
    rows = ", ".join(f"{manifest.rows(s)} {s}" for s in ("train", "val", "test"))
    console.say(f"{len(manifest.classes)} classes, {rows} rows, digest {manifest.digest[:12]}")
    if manifest.quarantine:
        first = manifest.quarantine[0]
        console.say(
            f"{len(manifest.quarantine)} rows were quarantined (see quarantine in manifest.json), "
            f"first {first.id}: {first.reason}"
        )
    for kind in manifest.left_out:
        console.say(f"Left out {kind}")
    console.say(f"Packed at {manifest.uri}")


def train(arguments: argparse.Namespace) -> None:
    """Fits one model."""
    from rtl.cli import progress_views
    from rtl.runs.progress import Watcher
    from rtl.training import train

    settings = load(arguments)
    train.prepare(settings)  # what is wrong is told before Ray starts
    _connect()
    with progress_views.FitView(settings.train.epochs) as view:
        watcher = Watcher(features=view.features, step=view.step, epoch=view.epoch)
        result = train.train(settings, resume=arguments.resume, watcher=watcher)
    _show(result, settings)


def search(arguments: argparse.Namespace) -> None:
    """Searches, and tells what it spent."""
    from rtl import storage
    from rtl.cli import console, progress_views
    from rtl.tuning import search

    settings = load(arguments)
    search.check(settings)  # what is wrong is told before Ray starts
    _connect()
    with progress_views.SearchView(settings.train.metric) as view:
        result = search.search(
            settings, progress=view.features, watch=view.trials, on_round=view.round,
            on_stage=view.stage, resume=arguments.resume, print_line=console.say,
        )  # fmt: skip
    uri = storage.join(settings.storage, "runs", result.name, "search.json")
    console.say(console.spent_line(storage.read_json(uri)))
    _show(result, settings)


def lr_find(arguments: argparse.Namespace) -> None:
    """Tests learning rates, depth by depth."""
    from rtl.cli import console, progress_views
    from rtl.tuning import lr_find

    settings = load(arguments)
    _connect()
    with progress_views.Bars() as bars:
        tests = lr_find.find(settings, lambda done, total: bars(done, total, "features"))
    console.show(console.rates_table(tests))
    low, high = min(t.around[0] for t in tests), max(t.around[1] for t in tests)
    console.say(f"Next: rtl search --set 'search.lr={{min: {low:g}, max: {high:g}, log: true}}'")


def features(arguments: argparse.Namespace) -> None:
    """Lists the feature caches, after removing some where asked."""
    from rtl.cli import console
    from rtl.feature_extraction import prune

    root = load(arguments).storage
    if arguments.all and not arguments.prune:
        raise ConfigError("--all says what --prune removes; give both.")
    if arguments.prune:
        gone = prune.prune(root, everything=arguments.all)
        console.say(f"Removed {len(gone)} caches, {sum(c.bytes for c in gone) / 1e6:.1f} MB")
    console.show(console.caches_table(prune.listing(root)))


def _show(result: Result, settings: Config) -> None:
    from rtl.cli import console

    console.say(
        f"Best: {result.unfrozen_layers} unfrozen layers, lr {result.lr:.2g}, epoch "
        f"{result.best_epoch + 1} of {result.epochs}, {result.seconds:.0f} s in all"
    )
    for line in console.scores_lines("val", result.val):
        console.say(line)
    for line in console.scores_lines("test", result.test) if result.test else []:
        console.say(line)
    console.say(f"Bundle {result.bundle}, registered as {result.name}@{result.version}")
    console.say(
        f"Next: rtl promote {result.name} {result.version} --storage {settings.storage}; "
        f"rtl serve {result.name} --storage {settings.storage}"
    )


def evaluate(arguments: argparse.Namespace) -> None:
    """Scores a model on a split."""
    from rtl.batch_inference import evaluate
    from rtl.cli import console, progress_views
    from rtl.errors import ConfigError
    from rtl.model import registry

    settings = load(arguments)
    if settings.data.uri is None:
        raise ConfigError("data.uri is not set; give the packed data set with --data URI.")
    uri = registry.resolve(settings.storage, arguments.bundle)
    with progress_views.Bars() as bars:
        scores = evaluate.evaluate(
            uri, settings.data.uri, arguments.split, bool(settings.train.gpus_per_worker),
            lambda done, total: bars(done, total, "rows"),
        )  # fmt: skip
    if arguments.json:
        console.write(json.dumps(scores.to_dict()) + "\n")
        return
    for line in console.scores_lines(arguments.split, scores):
        console.say(line)


def quantize(arguments: argparse.Namespace) -> None:
    """Registers a model in 8 bits."""
    from rtl.batch_inference import quantize
    from rtl.cli import console, progress_views
    from rtl.model import registry

    settings = load(arguments)
    if settings.data.uri is None:
        raise ConfigError("data.uri is not set; give the packed data set with --data URI.")
    uri = registry.resolve(settings.storage, arguments.bundle)
    with progress_views.Bars() as bars:
        done = quantize.quantize(
            settings.storage, uri, settings.data.uri, arguments.at_most,
            lambda done, total: bars(done, total, "rows"),
        )  # fmt: skip
    proof = done.proof
    console.say(
        f"Accuracy on val {proof.accuracy:.4f} in 8 bits, {proof.accuracy_before:.4f} before; "
        f"another answer for {round((1 - proof.agreement) * proof.rows)} of {proof.rows} rows"
    )
    for line in console.scores_lines("test", done.test) if done.test else []:
        console.say(line)
    console.say(f"Registered as {done.name}@{done.version}")
    console.say(f"Next: rtl promote {done.name} {done.version} --storage {settings.storage}")


def predict(arguments: argparse.Namespace) -> None:
    """Answers for many images."""
    from rtl.batch_inference import predict
    from rtl.cli import console, progress_views
    from rtl.model import registry

    settings = load(arguments)
    uri = registry.resolve(settings.storage, arguments.bundle)
    with progress_views.Bars() as bars:
        summary = predict.predict(
            uri, arguments.source, arguments.dest, bool(settings.train.gpus_per_worker),
            lambda done, total: bars(done, total, "images"),
        )  # fmt: skip
    console.say(
        f"{summary.rows} images, {summary.uncertain} uncertain, {summary.errors} unreadable (see "
        "the column `error`)"
    )
    for kind in summary.left_out:
        console.say(f"Left out {kind}")
    console.say(f"Answers at {arguments.dest}/answers")


def report(arguments: argparse.Namespace) -> None:
    """Writes a run as HTML."""
    from rtl import reporting, storage
    from rtl.cli import console
    from rtl.storage import destinations

    uri = arguments.run
    if "/" not in uri:
        uri = storage.join(load(arguments).storage, "runs", uri)
    out = arguments.out or uri.rstrip("/").rsplit("/", 1)[-1] + ".html"
    destinations.check_file(out, "--out")
    storage.write_bytes(out, reporting.report(uri).encode())
    console.say(f"Report at {out}")


def runs(arguments: argparse.Namespace) -> None:
    """Lists all runs of a storage root."""
    from rtl.cli import console
    from rtl.runs import listing

    root = load(arguments).storage
    rows = listing.listing(root)
    if arguments.json:
        console.write(json.dumps([row.to_dict() for row in rows], indent=1) + "\n")
        return
    if not rows:
        console.say(f"No runs under {root}; name another place with --storage.")
        return
    console.show(console.runs_table(rows))
    for row in rows:
        if row.reason:
            console.say(f"{row.name} {row.state}: {row.reason}")


def promote(arguments: argparse.Namespace) -> None:
    """Makes a version the current one."""
    from rtl.cli import console
    from rtl.model import registry

    settings = load(arguments)
    registry.promote(settings.storage, arguments.name, arguments.version)
    console.say(f"{arguments.name}@{arguments.version} is current; {_followers(settings)}")


def rollback(arguments: argparse.Namespace) -> None:
    """Goes back to the version before."""
    from rtl.cli import console
    from rtl.model import registry

    settings = load(arguments)
    version = registry.rollback(settings.storage, arguments.name)
    console.say(f"{arguments.name}@{version} is current again; {_followers(settings)}")


def canary(arguments: argparse.Namespace) -> None:
    """Puts a version on trial, or ends the trial."""
    from rtl.cli import console
    from rtl.model import registry
    from rtl.model.registry import Canary

    settings = load(arguments)
    if arguments.version is None:
        registry.set_canary(settings.storage, arguments.name, None)
        console.say(f"No version of {arguments.name} is on trial; {_followers(settings)}")
        return
    canary = Canary(arguments.version, arguments.share, arguments.shadow)
    registry.set_canary(settings.storage, arguments.name, canary)
    console.say(
        f"{arguments.name}@{canary.version} answers {canary.share:.0%} of the images"
        f"{', for comparison only' if canary.shadow else ''}; {_followers(settings)} "
        "Compare them at /v1/traffic."
    )


def _followers(settings: Config) -> str:
    return f"endpoints of that name follow within {settings.serve.follow_s:g} s."


def serve(arguments: argparse.Namespace) -> None:
    """Serves until Ctrl-C."""
    from rtl.runtime import session
    from rtl.serving import deployment

    deploy(arguments)
    try:
        signal.pause()
    finally:
        if session.joined():
            deployment.shutdown()


def deploy(arguments: argparse.Namespace) -> None:
    """Serves, and leaves it to the cluster."""
    from rtl.cli import console
    from rtl.model import registry
    from rtl.serving import deployment

    settings = load(arguments)
    token = os.environ.get("RTL_TOKEN", "")
    uri = registry.resolve(settings.storage, arguments.bundle)
    _connect()
    with console.busy("Starting the endpoint"):
        if registry.follows(arguments.bundle):
            root, served = settings.storage, settings.serve
            url = deployment.deploy_name(root, arguments.bundle, served, token=token)
        else:
            url = deployment.deploy(uri, settings.serve, token=token)
    console.say(f"Serving {uri} at {url} (a page for the browser)")
    asked = ' -H "Authorization: Bearer $RTL_TOKEN"' if token else ""
    console.say(f"Try: curl{asked} --data-binary @photo.jpg {url}/v1/predict")


def export(arguments: argparse.Namespace) -> None:
    """Writes a model for another runtime."""
    from rtl.cli import console
    from rtl.exporting import export
    from rtl.model import registry

    uri = registry.resolve(load(arguments).storage, arguments.bundle)
    samples = export.images_in(arguments.check) if arguments.check else []
    done = export.export(uri, arguments.out, arguments.format, samples)
    console.say(
        f"Asked {done.images} images, it answered as the bundle: probabilities differ by "
        f"{done.difference:.1g} at most."
    )
    console.say(f"Model at {done.uri}, its card beside it")


def card(arguments: argparse.Namespace) -> None:
    """Prints or writes a model card."""
    from rtl import storage
    from rtl.cli import console
    from rtl.exporting import card
    from rtl.model import bundle, registry
    from rtl.storage import destinations

    if arguments.out:
        destinations.check_file(arguments.out, "--out")
    uri = registry.resolve(load(arguments).storage, arguments.bundle)
    text = card.card(bundle.verify(uri))
    if arguments.out:
        storage.write_bytes(arguments.out, text.encode())
        console.say(f"Model card at {arguments.out}")
    else:
        console.write(text)


def demo(arguments: argparse.Namespace) -> None:
    """Runs the demo."""
    from rtl.cli import demo

    demo.run(
        arguments.storage, load(arguments).serve, quick=arguments.quick, keep=arguments.keep,
        as_json=arguments.json,
    )  # fmt: skip
