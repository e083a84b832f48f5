"""What each verb of the command line does: load the config, call one function, say the result."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from rtl.errors import ConfigError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from rtl.config import Config
    from rtl.run import Result


def _load(arguments: argparse.Namespace) -> Config:
    from rtl import recipes

    settings = recipes.load(arguments.recipe, arguments.overrides)
    if arguments.storage:
        settings = settings.replace(storage=arguments.storage)
    if getattr(arguments, "data", None):
        settings = settings.replace(data={"uri": arguments.data})
    if getattr(arguments, "budget", None):
        minutes = recipes.minutes(arguments.budget)
        settings = settings.replace(search={"budget_minutes": minutes})
    if arguments.verb in ("train", "search") and arguments.name:
        settings = settings.replace(name=arguments.name)
    return settings


def config(arguments: argparse.Namespace) -> None:
    """Prints the effective config."""
    from rtl import recipes

    sys.stdout.write(recipes.to_yaml(_load(arguments)))


def pack(arguments: argparse.Namespace) -> None:
    """Packs a source, and tells what was left out."""
    from rtl import console, pack, runtime

    settings = _load(arguments)
    runtime.connect()
    with console.Bars() as bars:
        manifest = pack.pack(arguments.source, arguments.dest, settings.pack, bars)
    rows = ", ".join(f"{manifest.rows(s)} {s}" for s in ("train", "val", "test"))
    console.say(f"{len(manifest.classes)} classes, {rows} rows, digest {manifest.digest[:12]}")
    if manifest.quarantine:
        first = manifest.quarantine[0]
        console.say(
            f"{len(manifest.quarantine)} rows were left out (see quarantine in manifest.json), "
            f"first {first.id}: {first.reason}"
        )
    console.say(f"Packed at {manifest.uri}")


def train(arguments: argparse.Namespace) -> None:
    """Fits one model."""
    from rtl import console, runtime, train
    from rtl.progress import Watcher

    settings = _load(arguments)
    runtime.connect()
    with console.FitView() as view:
        watcher = Watcher(features=view.features, step=view.step, epoch=view.epoch)
        result = train.train(settings, arguments.resume, watcher)
    _show(result, settings)


def search(arguments: argparse.Namespace) -> None:
    """Searches, and tells what it spent."""
    from rtl import console, runtime, search, storage

    settings = _load(arguments)
    runtime.connect()
    with console.SearchView(settings.train.metric) as view:
        result = search.search(settings, view.features, view.board, arguments.resume, console.say)
    uri = storage.join(settings.storage, "runs", result.name, "search.json")
    console.say(console.spent_line(storage.read_json(uri)))
    _show(result, settings)


def lr_find(arguments: argparse.Namespace) -> None:
    """Tests learning rates, depth by depth."""
    from rtl import console, lr_find, runtime

    settings = _load(arguments)
    runtime.connect()
    with console.Bars() as bars:
        tests = lr_find.find(settings, lambda done, total: bars(done, total, "features"))
    console.console.print(console.rates_table(tests))
    low, high = min(t.around[0] for t in tests), max(t.around[1] for t in tests)
    console.say(f"Next: rtl search --set 'search.lr={{min: {low:g}, max: {high:g}, log: true}}'")


def features(arguments: argparse.Namespace) -> None:
    """Lists the feature caches, after removing some where asked."""
    from rtl import console, prune

    root = _load(arguments).storage
    if arguments.all and not arguments.prune:
        raise ConfigError("--all says what --prune removes; give both.")
    if arguments.prune:
        gone = prune.prune(root, arguments.all)
        console.say(f"Removed {len(gone)} caches, {sum(c.bytes for c in gone) / 1e6:.1f} MB")
    console.console.print(console.caches_table(prune.listing(root)))


def _show(result: Result, settings: Config) -> None:
    from rtl import console

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
    from rtl import console, evaluate, registry, runtime
    from rtl.errors import ConfigError

    settings = _load(arguments)
    if settings.data.uri is None:
        raise ConfigError("data.uri is not set; give the packed data set with --data URI.")
    uri = registry.resolve(settings.storage, arguments.bundle)
    runtime.connect()
    with console.Bars() as bars:
        scores = evaluate.evaluate(
            uri, settings.data.uri, arguments.split, bool(settings.train.gpus_per_worker),
            lambda done, total: bars(done, total, "rows"),
        )  # fmt: skip
    for line in console.scores_lines(arguments.split, scores):
        console.say(line)
    console.say(json.dumps(scores.to_dict()))


def quantize(arguments: argparse.Namespace) -> None:
    """Registers a model in 8 bits."""
    from rtl import console, quantize, registry

    settings = _load(arguments)
    if settings.data.uri is None:
        raise ConfigError("data.uri is not set; give the packed data set with --data URI.")
    uri = registry.resolve(settings.storage, arguments.bundle)
    with console.Bars() as bars:
        done = quantize.quantize(
            settings.storage, uri, settings.data.uri, arguments.at_most,
            lambda done, total: bars(done, total, "rows"),
        )  # fmt: skip
    proof = done.proof
    console.say(
        f"Accuracy on val {proof.accuracy:.4f} in 8 bits, {proof.accuracy_before:.4f} before; the "
        f"same answer for {proof.agreement:.2%} of {proof.rows} rows"
    )
    for line in console.scores_lines("test", done.test) if done.test else []:
        console.say(line)
    console.say(f"Registered as {done.name}@{done.version}")
    console.say(f"Next: rtl promote {done.name} {done.version} --storage {settings.storage}")


def predict(arguments: argparse.Namespace) -> None:
    """Answers for many images."""
    from rtl import console, predict, registry, runtime

    settings = _load(arguments)
    uri = registry.resolve(settings.storage, arguments.bundle)
    runtime.connect()
    with console.Bars() as bars:
        summary = predict.predict(
            uri, arguments.source, arguments.dest, bool(settings.train.gpus_per_worker),
            lambda done, total: bars(done, total, "images"),
        )  # fmt: skip
    console.say(
        f"{summary.rows} images, {summary.uncertain} uncertain, {summary.errors} unreadable (see "
        "the column `error`)"
    )
    console.say(f"Answers at {arguments.dest}/answers")


def report(arguments: argparse.Namespace) -> None:
    """Writes a run as HTML."""
    from rtl import console, places, report, storage

    uri = arguments.run
    if "/" not in uri:
        uri = storage.join(_load(arguments).storage, "runs", uri)
    out = arguments.out or uri.rstrip("/").rsplit("/", 1)[-1] + ".html"
    places.check_file(out, "--out")
    storage.write_bytes(out, report.report(uri).encode())
    console.say(f"Report at {out}")


def runs(arguments: argparse.Namespace) -> None:
    """Lists all runs of a storage root."""
    from rtl import console, runs

    root = _load(arguments).storage
    rows = runs.listing(root)
    if arguments.json:
        sys.stdout.write(json.dumps([row.to_dict() for row in rows], indent=1) + "\n")
        return
    if not rows:
        console.say(f"No runs under {root}; name another place with --storage.")
        return
    console.console.print(console.runs_table(rows), soft_wrap=False)  # its cells may wrap
    for row in rows:
        if row.reason:
            console.say(f"{row.name} {row.state}: {row.reason}")


def promote(arguments: argparse.Namespace) -> None:
    """Makes a version the current one."""
    from rtl import console, registry

    settings = _load(arguments)
    registry.promote(settings.storage, arguments.name, arguments.version)
    console.say(f"{arguments.name}@{arguments.version} is current; {_followers(settings)}")


def rollback(arguments: argparse.Namespace) -> None:
    """Goes back to the version before."""
    from rtl import console, registry

    settings = _load(arguments)
    version = registry.rollback(settings.storage, arguments.name)
    console.say(f"{arguments.name}@{version} is current again; {_followers(settings)}")


def canary(arguments: argparse.Namespace) -> None:
    """Puts a version on trial, or ends the trial."""
    from rtl import console, registry
    from rtl.registry import Canary

    settings = _load(arguments)
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
    from rtl import runtime
    from rtl.serve import deployment

    deploy(arguments)
    try:
        signal.pause()
    finally:
        if runtime.joined():
            deployment.shutdown()


def deploy(arguments: argparse.Namespace) -> None:
    """Serves, and leaves it to the cluster."""
    from rtl import console, registry, runtime
    from rtl.serve import deployment

    settings = _load(arguments)
    token = os.environ.get("RTL_TOKEN", "")
    uri = registry.resolve(settings.storage, arguments.bundle)
    runtime.connect()
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
    from rtl import console, export, registry

    uri = registry.resolve(_load(arguments).storage, arguments.bundle)
    samples = export.images_in(arguments.check) if arguments.check else []
    done = export.export(uri, arguments.out, arguments.format, samples)
    console.say(
        f"Asked {done.images} images, it answered as the bundle: probabilities differ by "
        f"{done.difference:.1g} at most."
    )
    console.say(f"Model at {done.uri}, its card beside it")


def card(arguments: argparse.Namespace) -> None:
    """Prints or writes a model card."""
    from rtl import bundle, card, console, places, registry, storage

    if arguments.out:
        places.check_file(arguments.out, "--out")
    uri = registry.resolve(_load(arguments).storage, arguments.bundle)
    text = card.card(bundle.verify(uri))
    if arguments.out:
        storage.write_bytes(arguments.out, text.encode())
        console.say(f"Model card at {arguments.out}")
    else:
        sys.stdout.write(text)


def submit(arguments: argparse.Namespace) -> None:
    """Starts a verb on a cluster, and follows it."""
    from rtl import console, submit

    asked = arguments.asked
    settings = _load(asked)
    places = {"source": getattr(asked, "source", None), "dest": getattr(asked, "dest", None)}
    if asked.verb != "pack":
        places |= {"storage": settings.storage, "data.uri": settings.data.uri}
    submit.check_places(places)
    resources = submit.Resources(arguments.cpus, arguments.gpus, arguments.memory_gb)
    job = submit.make(asked.verb, arguments.rest, asked.recipe, resources)
    given = arguments.runtime_env
    environment = submit.read_environment(given) if given else {}
    with submit.client(arguments.address) as jobs:
        submission_id = submit.submit(jobs, job, arguments.id, environment)
        console.say(f"Submitted as {submission_id}")
        if not arguments.no_wait:
            _follow(jobs, submission_id)


def jobs(arguments: argparse.Namespace) -> None:
    """Lists jobs, or follows, stops or resumes one."""
    from rtl import console, submit

    with submit.client(arguments.address) as jobs:
        if arguments.stop:
            submit.stop(jobs, arguments.stop)
            console.say(f"{arguments.stop} is asked to end; resume it with --resume")
        elif arguments.resume:
            submission_id = submit.resume(jobs, arguments.resume)
            console.say(f"Submitted as {submission_id}")
            _follow(jobs, submission_id)
        elif arguments.follow:
            _follow(jobs, arguments.follow)
        else:
            console.console.print(console.jobs_table(submit.listing(jobs)))


def _follow(jobs: JobSubmissionClient, submission_id: str) -> None:
    from rtl import submit

    try:
        for text in submit.follow(jobs, submission_id):
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write(
            f"The job goes on. `rtl jobs --follow {submission_id}` shows it, --stop ends it.\n"
        )
        raise


def demo(arguments: argparse.Namespace) -> None:
    """Runs the demo."""
    from rtl import demo

    demo.run(arguments.storage, arguments.quick, arguments.keep, _load(arguments).serve)
