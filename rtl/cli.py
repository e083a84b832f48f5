"""The command line: parse, call one function, say where the result is."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rtl.errors import ConfigError, RtlError

if TYPE_CHECKING:
    from rtl.config import Config
    from rtl.run import Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; 0 when it did what was asked, 1 after an error, 130 after Ctrl-C."""
    parsed = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    action: Callable[[argparse.Namespace], None] = parsed.action
    try:
        action(parsed)
    except RtlError as error:
        sys.stderr.write(f"rtl {parsed.verb}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"rtl {parsed.verb}: stopped.\n")
        return 130
    return 0


def _end(*_: Any) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rtl", description="From labelled images to a served classifier."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, action: Callable[[argparse.Namespace], None], about: str) -> Any:
        verb = verbs.add_parser(name, help=about, description=about)
        verb.set_defaults(action=action)
        verb.add_argument("--recipe", metavar="FILE", help="YAML recipe (`rtl config` prints one)")
        verb.add_argument(
            "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
            help="override a key of the recipe, such as search.trials=16; may be repeated",
        )  # fmt: skip
        verb.add_argument("--storage", metavar="URI", help="folder or s3:// prefix for all results")
        return verb

    add("config", _config, "Print the effective config as a recipe.")
    verb = add("pack", _pack, "Turn labelled images into shards.")
    verb.add_argument("source", help="folder a class, CSV, Parquet, Stanford Dogs or WebDataset")
    verb.add_argument("dest", help="folder or s3:// prefix of the data set")
    for name, action, about in (
        ("train", _train, "Fit one model."),
        ("search", _search, "Find the depth and learning rate; register the winner."),
    ):
        verb = add(name, action, about)
        verb.add_argument("--name", help="name of the run and of the model")
        verb.add_argument("--data", metavar="URI", help="the packed data set")
        if name == "search":
            verb.add_argument(
                "--budget", metavar="TIME", help="end in this time, such as 30m, 90s or 2h"
            )
        verb.add_argument("--resume", action="store_true", help="go on with a run of this name")
    verb = add("lr-find", _lr_find, "Find where to search the learning rate, depth by depth.")
    verb.add_argument("--data", metavar="URI", help="the packed data set")
    verb = add("features", _features, "List the feature cache; remove what nobody can use.")
    verb.add_argument("--prune", action="store_true", help="remove outdated and abandoned ones")
    verb.add_argument("--all", action="store_true", help="with --prune, remove all not in work")
    verb = add("evaluate", _evaluate, "Score a model on a split of a packed data set.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("--data", metavar="URI", help="the packed data set")
    verb.add_argument("--split", default="test", choices=["train", "val", "test"])
    verb = add("predict", _predict, "Answer for many images, as Parquet; again: goes on.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("source", help="folder or s3:// prefix of images, or a packed data set")
    verb.add_argument("dest", help="folder or s3:// prefix for the answers")
    verb = add("report", _report, "Write a finished run as one HTML file.")
    verb.add_argument("run", help="a run's name, or its path or URI")
    verb.add_argument("--out", metavar="FILE", help="where to (default: NAME.html)")
    verb = add("promote", _promote, "Make a version of a model the current one.")
    verb.add_argument("name")
    verb.add_argument("version", type=int)
    verb = add("rollback", _rollback, "Make the version before the current one current again.")
    verb.add_argument("name")
    verb = add("canary", _canary, "Let a version answer a share of the images beside the current.")
    verb.add_argument("name")
    verb.add_argument("version", type=int, nargs="?", help="left out: end the trial")
    verb.add_argument("--share", type=float, default=0.1, help="of the images (default: 0.1)")
    verb.add_argument(
        "--shadow", action="store_true", help="compare only: the current version's answer is given"
    )
    verb = add("serve", _serve, "Serve a model over HTTP until Ctrl-C.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("--detach", action="store_true", help="return, and leave it to the cluster")
    verb = add("export", _export, "Write a model as one file for a runtime without rtl.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("out", help="folder or s3:// prefix of the model, metadata and model card")
    verb.add_argument("--format", default="onnx", choices=["onnx", "torch"])
    verb.add_argument(
        "--check", metavar="FOLDER", help="images that it must answer as the bundle does"
    )
    verb = add("card", _card, "Print a model's card, or write it.")
    verb.add_argument("bundle", help="a bundle's path or URI, NAME or NAME@VERSION")
    verb.add_argument("--out", metavar="FILE", help="where to (default: standard output)")
    verb = add("demo", _demo, "The whole way on 2,624 real photos of solar cells.")
    verb.add_argument("--quick", action="store_true", help="300 photos and a small search")
    verb.add_argument("--keep", action="store_true", help="leave the endpoint up until Ctrl-C")
    return parser


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


def _config(arguments: argparse.Namespace) -> None:
    from rtl import recipes

    sys.stdout.write(recipes.to_yaml(_load(arguments)))


def _pack(arguments: argparse.Namespace) -> None:
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


def _train(arguments: argparse.Namespace) -> None:
    from rtl import console, runtime, train
    from rtl.progress import Watcher

    settings = _load(arguments)
    runtime.connect()
    with console.FitView() as view:
        watcher = Watcher(features=view.features, step=view.step, epoch=view.epoch)
        result = train.train(settings, arguments.resume, watcher)
    _show(result, settings)


def _search(arguments: argparse.Namespace) -> None:
    from rtl import console, runtime, search, storage

    settings = _load(arguments)
    runtime.connect()
    with console.SearchView(settings.train.metric) as view:
        result = search.search(settings, view.features, view.board, arguments.resume, console.say)
    uri = storage.join(settings.storage, "runs", result.name, "search.json")
    console.say(console.spent_line(storage.read_json(uri)))
    _show(result, settings)


def _lr_find(arguments: argparse.Namespace) -> None:
    from rtl import console, lr_find, runtime

    settings = _load(arguments)
    runtime.connect()
    with console.Bars() as bars:
        tests = lr_find.find(settings, lambda done, total: bars(done, total, "features"))
    console.console.print(console.rates_table(tests))
    low, high = min(t.around[0] for t in tests), max(t.around[1] for t in tests)
    console.say(f"Next: rtl search --set 'search.lr={{min: {low:g}, max: {high:g}, log: true}}'")


def _features(arguments: argparse.Namespace) -> None:
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


def _evaluate(arguments: argparse.Namespace) -> None:
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


def _predict(arguments: argparse.Namespace) -> None:
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


def _report(arguments: argparse.Namespace) -> None:
    from rtl import console, report, storage

    uri = arguments.run
    if "/" not in uri:
        uri = storage.join(_load(arguments).storage, "runs", uri)
    out = arguments.out or uri.rstrip("/").rsplit("/", 1)[-1] + ".html"
    storage.write_bytes(out, report.report(uri).encode())
    console.say(f"Report at {out}")


def _promote(arguments: argparse.Namespace) -> None:
    from rtl import console, registry

    settings = _load(arguments)
    registry.promote(settings.storage, arguments.name, arguments.version)
    console.say(f"{arguments.name}@{arguments.version} is current; {_followers(settings)}")


def _rollback(arguments: argparse.Namespace) -> None:
    from rtl import console, registry

    settings = _load(arguments)
    version = registry.rollback(settings.storage, arguments.name)
    console.say(f"{arguments.name}@{version} is current again; {_followers(settings)}")


def _canary(arguments: argparse.Namespace) -> None:
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


def _serve(arguments: argparse.Namespace) -> None:
    from rtl import console, registry, runtime, serve

    settings = _load(arguments)
    token = os.environ.get("RTL_TOKEN", "")
    uri = registry.resolve(settings.storage, arguments.bundle)
    runtime.connect()
    if registry.follows(arguments.bundle):
        url = serve.deploy_name(settings.storage, arguments.bundle, settings.serve, token=token)
    else:
        url = serve.deploy(uri, settings.serve, token=token)
    console.say(f"Serving {uri} at {url} (a page for the browser)")
    asked = ' -H "Authorization: Bearer $RTL_TOKEN"' if token else ""
    console.say(f"Try: curl{asked} --data-binary @photo.jpg {url}/v1/predict")
    if not arguments.detach:
        try:
            signal.pause()
        finally:
            if runtime.joined():
                serve.shutdown()


def _export(arguments: argparse.Namespace) -> None:
    from rtl import console, export, registry

    uri = registry.resolve(_load(arguments).storage, arguments.bundle)
    samples = export.images_in(arguments.check) if arguments.check else []
    done = export.export(uri, arguments.out, arguments.format, samples)
    console.say(
        f"Asked {done.images} images, it answered as the bundle: probabilities differ by "
        f"{done.difference:.1g} at most."
    )
    console.say(f"Model at {done.uri}, its card beside it")


def _card(arguments: argparse.Namespace) -> None:
    from rtl import bundle, card, console, registry, storage

    uri = registry.resolve(_load(arguments).storage, arguments.bundle)
    text = card.card(bundle.verify(uri))
    if arguments.out:
        storage.write_bytes(arguments.out, text.encode())
        console.say(f"Model card at {arguments.out}")
    else:
        sys.stdout.write(text)


def _demo(arguments: argparse.Namespace) -> None:
    from rtl import demo

    demo.run(arguments.storage, arguments.quick, arguments.keep, _load(arguments).serve)


if __name__ == "__main__":
    sys.exit(main())
