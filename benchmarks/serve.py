"""The HTTP endpoint against the network alone, and against LitServe; overload, a swap, memory.

    python benchmarks/serve.py [--seconds 60] [--memory-minutes 10] [--turns 3]

All on the same cores, in one run. The load comes from a process of its own (`measuring/load.py`;
what that costs is in the record) and sends photos of ELPV as their files; the bundle is Inception
V3 at 299 pixels. The limit, `bare`, decodes 16 photos with all cores, then has them through the
network; its latency is that of one photo. bare, rtl and LitServe are started anew for each of
`--turns`, in another order each time, so that a machine that becomes slower does so for all: rates
are means over the turns, percentiles those of all their requests.

At saturation 48 clients ask in turns. At half of its own saturation each server gets requests at
due times, whatever it does; a latency counts from the time due. They come at a constant rate, as
wrk2, vegeta and k6 send them (`p99_half_load_ratio`), and as Poisson arrivals, for which chance
alone makes some wait: what a server with no cost of its own would take there is simulated from the
bare network's times (`p99_half_poisson_ratio`, `p99_half_poisson_ideal_ratio`).
Overload is four times the saturation. For the swap a version is promoted and rolled back in the
registry that the endpoint follows. `int8` is the same endpoint with a version in 8 bits (`rtl
quantize`), its ratios to the same bare network in bf16.

LitServe is installed for the run alone, in a folder that the environment does not see. BentoML
1.4.40 is not compared: it wants another certifi and OpenTelemetry than Ray's in constraints.txt.

Below `--seconds 30` a run is for trying it out and records nothing. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
from measuring import load, queueing
from measuring.record import over, write

CORES = 2
BATCH = 16
CLIENTS = 3 * BATCH
PHOTOS = 256
NAME = "cells"
SECOND, FIRST, IN_8_BITS = 1, 2, 3
"""Versions of it: another head, the one that is measured, that one in 8 bits."""
PREDICT, MODEL = "/v1/predict", "/v1/model"
LITSERVE = ("litserve==0.2.19", "pyzmq==27.3.0")


def make_registry(root: str, photos: Sequence[str]) -> None:
    """Two versions of a model with different heads, the first one promoted, and it in 8 bits."""
    import torch

    from rtl.batch_inference import quantize
    from rtl.evaluation import baseline
    from rtl.evaluation.predictions import Predictions
    from rtl.model import bundle, inception, kernels, pretrained, registry
    from rtl.model.inference import Output

    weights = pretrained.load("packaged", ".")
    network = inception.build(2)
    inception.load_part(network, weights.state)
    info = bundle.BundleInfo(
        name=NAME, classes=("defective", "functional"), unfrozen_layers=0, image_size=299,
        mean=weights.mean, std=weights.std, metrics={"val": None, "test": None},
        weights={"source": weights.source, "sha256": weights.sha256},
        manifest_digest="0" * 64, config={},
    )  # fmt: skip
    prepared = bundle.Classifier(info, network, torch.device("cpu"))
    some = torch.stack([prepared.preprocess(Path(photo).read_bytes()) for photo in photos[::8]])

    def answers(version: torch.nn.Sequential) -> Output:
        return bundle.Classifier(info, version, torch.device("cpu")).output(some)

    for seed in (2, 1):
        inception.init_head(network, seed)
        said = answers(network)
        watched = replace(info, baseline=baseline.measure(said.probabilities, said.pooled))
        bundle.save(f"{root}/made", watched, network)
        registry.register(root, NAME, f"{root}/made")
    images = torch.split(some, BATCH)
    smaller = kernels.quantize_network(network, images, mean=info.mean, std=info.std)
    both = [said.probabilities.numpy(), answers(smaller).probabilities.numpy()]
    before, after = (Predictions([""] * len(some), both[0].argmax(1), p) for p in both)
    bundle.save(
        f"{root}/made", replace(watched, quantized=quantize.compare(before, after)), smaller
    )
    registry.register(root, NAME, f"{root}/made")
    registry.promote(root, NAME, FIRST)


def bare(uri: str, photos: Sequence[str], seconds: float) -> dict[str, Any]:
    """The network with nothing around it: images a second, seconds of one, the first's answer."""
    import torch

    from rtl.model.bundle import Classifier

    def one_thread() -> None:
        torch.get_num_threads()  # else the first use of torch here would undo the next line
        torch.set_num_threads(1)

    torch.set_num_threads(CORES)
    classifier = Classifier.load(uri)
    encoded = [Path(photo).read_bytes() for photo in photos]
    batches = [encoded[i : i + BATCH] for i in range(0, len(encoded), BATCH)]

    with ThreadPoolExecutor(CORES, initializer=one_thread) as decoders:

        def answer(batch: list[bytes]) -> None:
            classifier.predict(torch.stack(list(decoders.map(classifier.preprocess, batch))))

        answer(batches[0])
        started, done = time.monotonic(), 0
        while time.monotonic() - started < seconds:
            answer(batches[done % len(batches)])
            done += 1
        rate = done * BATCH / (time.monotonic() - started)
    assert torch.get_num_threads() == CORES
    times: list[float] = []
    while sum(times) < seconds:
        started = time.monotonic()
        classifier.predict(classifier.preprocess(encoded[len(times) % len(encoded)])[None])
        times.append(time.monotonic() - started)
    batch_s = {1: statistics.median(times)}
    for size in (2, 4, 8, BATCH):
        pixels = torch.stack([classifier.preprocess(photo) for photo in encoded[:size]])
        took: list[float] = []
        while sum(took) < seconds / 8:
            started = time.monotonic()
            classifier.predict(pixels)
            took.append(time.monotonic() - started)
        batch_s[size] = statistics.median(took)
    first = classifier.predict(classifier.preprocess(encoded[0])[None])[0]
    return {
        "images_per_s": rate, "p50_s": batch_s[1], "batch_s": batch_s, "answer": first.tolist(),
    }  # fmt: skip


def in_own_process(uri: str, photos: Sequence[str], seconds: float) -> dict[str, Any]:
    """`bare` in a process that has the environment from its start."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(bare, uri, photos, seconds).result()


def loads(url: str, photos: Sequence[str], seconds: float) -> dict[str, load.Result]:
    """Saturation, one request at a time, half load in both ways; after a warm-up."""
    load.run(url, photos, seconds / 6, concurrency=BATCH)
    full = load.run(url, photos, seconds, concurrency=CLIENTS)
    rate = full.throughput(skip=seconds / 6)
    found = {
        "saturated": full,
        "alone": load.run(url, photos, seconds),
        "half_poisson": load.run(url, photos, 2 * seconds, rate / 2),
        "half_evenly": load.run(url, photos, seconds, rate / 2, evenly=True),
    }
    print(url, *(each.summary() for each in found.values()), sep="\n", flush=True)
    assert all(each.failed == 0 for each in found.values()), found
    return found


def figures(turns: Sequence[dict[str, load.Result]], seconds: float) -> dict[str, Any]:
    """The mean rate, percentiles over the requests of all turns, and each turn's summaries."""

    def latency(name: str, percent: float) -> float:
        records = [record for turn in turns for record in turn[name].records]
        return load.Result(records, 0.0).latency(percent)

    rates = [turn["saturated"].throughput(skip=seconds / 6) for turn in turns]
    return {
        "images_per_s": statistics.fmean(rates),
        "p50_s": latency("alone", 50),
        "p99_s": latency("alone", 99),
        "half_poisson_p50_s": latency("half_poisson", 50),
        "half_poisson_p99_s": latency("half_poisson", 99),
        "half_evenly_p50_s": latency("half_evenly", 50),
        "half_evenly_p99_s": latency("half_evenly", 99),
        "turns": [
            {"images_per_s": rate, **{name: found.summary() for name, found in turn.items()}}
            for rate, turn in zip(rates, turns, strict=True)
        ],
    }


def overload(url: str, photos: Sequence[str], seconds: float, rate: float) -> dict[str, Any]:
    """What is answered, how fast, what the rest is told, and what stays of it in memory."""
    before = memory_mb()
    found = load.run(url, photos, seconds / 3, rate)
    after = memory_mb()
    alone = load.run(url, photos, seconds / 3)
    refused = [record for record in found.records if record.status == 503]
    return {
        "rate": round(rate, 2),
        "share_200": round(1 - found.failed / len(found.records), 4),
        "share_503": round(len(refused) / len(found.records), 4),
        "neither_200_nor_503": found.failed - len(refused),
        "503_without_retry_after": sum(not record.retry_after for record in refused),
        "answered_per_s": round(found.throughput(skip=seconds / 18), 2),
        **found.summary(),
        "memory_mb": {"before": before, "after": after},
        "alone_after": alone.summary(),
    }


def memory_mb() -> dict[str, float]:
    """Resident memory of the replica and of all of Ray Serve's processes."""
    found = {"replica": 0.0, "serve": 0.0}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = "".join(process.cmdline()[:1])
            if not title.startswith(("ray::Serve", "ray::Proxy", "ray::HAProxy")):
                continue
            tree = [process, *process.children(recursive=True)]
            resident = sum(member.memory_info().rss for member in tree) / 1e6
            found["serve"] += resident
            if "Endpoint" in title:  # a method's name follows while it runs
                found["replica"] += resident
    assert found["replica"], "no process of the replica was found"
    return {name: round(value, 1) for name, value in found.items()}


def growth(url: str, photos: Sequence[str], minutes: float, rate: float) -> dict[str, Any]:
    """Memory under half load: the last quarter's median less the first quarter's."""
    every = min(30.0, minutes * 60 / 20)
    samples: list[dict[str, float]] = []
    with load.running(url, photos, minutes * 60, rate) as process:
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            time.sleep(every)
            samples.append(memory_mb())
        found = load.finish(process)
    quarter = max(1, len(samples) // 4)
    grown = {
        name: round(
            statistics.median(s[name] for s in samples[-quarter:])
            - statistics.median(s[name] for s in samples[:quarter]), 1,
        )
        for name in samples[0]
    }  # fmt: skip
    return {"minutes": minutes, "growth_mb": grown, "samples_mb": samples, **found.summary()}


def promotion(root: str, photos: Sequence[str], seconds: float, rate: float) -> dict[str, Any]:
    """Promotes version 2 and goes back to version 1, under load; every request counts."""
    from rtl.config.schema import ServeConfig
    from rtl.model import registry
    from rtl.serving import deployment

    url = deployment.deploy_name(root, NAME, ServeConfig(port=0, cpus_per_replica=CORES))
    steps = (("promote", lambda: registry.promote(root, NAME, SECOND), SECOND),
             ("rollback", lambda: registry.rollback(root, NAME), FIRST))  # fmt: skip
    changes = {}
    with load.running(url + PREDICT, photos, 1000.0, rate) as process:
        for what, change, version in steps:
            time.sleep(seconds / 6)
            started = time.monotonic()
            change()
            changed = time.monotonic()
            while httpx.get(url + MODEL, timeout=60).json()["version"] != version:
                assert time.monotonic() - changed < 120, f"version {version} is not served"
                time.sleep(0.1)
            served = time.monotonic()
            changes[what] = {"call_s": changed - started, "until_served_s": served - changed}
        time.sleep(seconds / 6)
        process.terminate()
        found = load.finish(process)
    return {"failed": found.failed, "rate": round(rate, 2), "changes": changes, **found.summary()}


@contextlib.contextmanager
def endpoint() -> Iterator[Callable[[str], str]]:
    """A cluster; what is given serves a bundle's URI in it and says the URL."""
    import ray

    from rtl.config.schema import ServeConfig
    from rtl.runtime import session
    from rtl.serving import deployment

    def serve(uri: str) -> str:
        config = ServeConfig(port=0, cpus_per_replica=CORES)
        return deployment.deploy(uri, config) + PREDICT

    session.connect(CORES)
    try:
        yield serve
        deployment.shutdown()
    finally:
        ray.shutdown()


def in_turns(
    uri: str, folder: str, photos: Sequence[str], seconds: float, turns: int
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, load.Result]]]]:
    """What bare found in each turn, and the loads of both servers."""
    limits: list[dict[str, Any]] = []
    found: dict[str, list[dict[str, load.Result]]] = {"rtl": [], "litserve": []}

    def one_of_bare() -> None:
        limits.append(in_own_process(uri, photos, seconds / 2))

    def one_of_rtl() -> None:
        with endpoint() as serve:
            url = serve(uri)
            said = httpx.post(url, content=Path(photos[0]).read_bytes(), timeout=60).json()
            ordered = sorted(said["results"][0]["predictions"], key=lambda p: str(p["label"]))
            same([p["probability"] for p in ordered], limits[0]["answer"])
            found["rtl"].append(loads(url, photos, seconds))

    def one_of_litserve() -> None:
        with litserve(uri, folder) as url:
            said = httpx.post(url, content=Path(photos[0]).read_bytes(), timeout=60).json()
            same(said["probabilities"], limits[0]["answer"])
            found["litserve"].append(loads(url, photos, seconds))

    order = [one_of_bare, one_of_rtl, one_of_litserve]
    for _ in range(turns):
        for measure in order:
            measure()
        order = [one_of_bare, *order[:0:-1]]
    one_of_bare()
    return limits, found


def rtl_alone(
    root: str, photos: Sequence[str], seconds: float, minutes: float, rate: float
) -> dict[str, Any]:
    """What is measured once: overload, memory, a promotion, the version in 8 bits."""
    from rtl.model import registry
    from rtl.serving import deployment

    with endpoint() as serve:
        url = serve(registry.resolve(root, f"{NAME}@{FIRST}"))
        load.run(url, photos, seconds / 6, concurrency=BATCH)
        found = {"overload": overload(url, photos, seconds, 4 * rate)}
        found["memory"] = growth(url, photos, minutes, rate / 2)
        deployment.shutdown()
        found["promotion"] = promotion(root, photos, seconds, rate / 2)
        print(*found.values(), sep="\n", flush=True)
        deployment.shutdown()
        url = serve(registry.resolve(root, f"{NAME}@{IN_8_BITS}"))
        found["int8"] = figures([loads(url, photos, seconds)], seconds)
    return found


@contextlib.contextmanager
def litserve(uri: str, folder: str) -> Iterator[str]:
    """The URL of the bundle behind LitServe, which is in `folder`."""
    from rtl.ports import free_port

    script = Path(__file__).parent / "measuring" / "litserver.py"
    port = free_port()
    arguments = [sys.executable, str(script), uri, str(port), str(CORES), str(BATCH)]
    process = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": folder})
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(f"{url}/health"):
            assert process.poll() is None, "LitServe ended before it answered"
            time.sleep(0.5)
        yield f"{url}/predict"
    finally:
        own = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(30)
        for child in psutil.wait_procs(own, timeout=10)[1]:
            child.kill()


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def same(found: list[float], expected: list[float]) -> None:
    """Ends the benchmark where a server has another network, or prepares photos otherwise."""
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 0.01, (found, expected)


def main() -> None:
    """Measures bare, rtl and LitServe in turns, then the rest of rtl."""
    from rtl.runtime import session

    session.silence()  # before Ray is imported, as by the next line
    from rtl.cli import demo
    from rtl.model import registry

    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0, help="of one load")
    parser.add_argument("--memory-minutes", type=float, default=10.0)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    seconds = options.seconds
    os.environ.update(session.env_vars(CORES))  # the same for all three
    photos = [str(photo.path) for photo in demo.sample(demo.load_photos(), PHOTOS)]
    with tempfile.TemporaryDirectory() as folder:
        make_registry(folder, photos)
        uri = registry.resolve(folder, f"{NAME}@{FIRST}")
        packages = f"{folder}/litserve"
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", packages]
        subprocess.run([*pip, *LITSERVE], check=True)
        limits, found = in_turns(uri, packages, photos, seconds, options.turns)
        rtl, other = (figures(found[name], seconds) for name in ("rtl", "litserve"))
        once = rtl_alone(folder, photos, seconds, options.memory_minutes, rtl["images_per_s"])
        own_cost = load.own_cost(photos, seconds / 6, once["overload"]["rate"])
    limit = {key: statistics.fmean(run[key] for run in limits) for key in ("images_per_s", "p50_s")}
    batch_s = {
        n: statistics.fmean(run["batch_s"][n] for run in limits) for n in (1, 2, 4, 8, BATCH)
    }
    ideal_s = queueing.ideal(batch_s, limit["images_per_s"] / 2, 99)
    in_8_bits = once["int8"]

    def ratio(key: str, to: dict[str, Any], of: dict[str, Any] = rtl) -> float:
        return round(float(of[key]) / float(to[key]), 3)

    result = {
        "throughput_ratio_to_bare": ratio("images_per_s", limit),
        "p50_ratio_to_bare": ratio("p50_s", limit),
        "p99_half_load_ratio": round(rtl["half_evenly_p99_s"] / rtl["p50_s"], 2),
        "p99_half_poisson_ratio": round(rtl["half_poisson_p99_s"] / rtl["p50_s"], 2),
        "p99_half_poisson_ideal_ratio": round(ideal_s / batch_s[1], 2),
        "litserve_throughput_ratio": ratio("images_per_s", other),
        "litserve_p50_ratio": ratio("p50_s", other),
        "litserve_p99_half_ratio": ratio("half_evenly_p99_s", other),
        "litserve_p99_half_poisson_ratio": ratio("half_poisson_p99_s", other),
        "int8_throughput_ratio_to_bare": ratio("images_per_s", limit, in_8_bits),
        "int8_p50_ratio_to_bare": ratio("p50_s", limit, in_8_bits),
        "int8_p99_half_poisson_ratio": round(
            in_8_bits["half_poisson_p99_s"] / in_8_bits["p50_s"], 2
        ),
        "overload_p99_s": once["overload"]["p99_s"],
        "overload_share_503": once["overload"]["share_503"],
        "memory_growth_mb": once["memory"]["growth_mb"]["replica"],
        "failed_during_promote": once["promotion"]["failed"],
    }
    throughputs = [
        a["images_per_s"] / b["images_per_s"]
        for a, b in zip(rtl["turns"], other["turns"], strict=True)
    ]
    details = {
        "ratios": "rtl / bare, rtl / LitServe",
        "litserve_throughput_ratio_over_turns": over(throughputs),
        "bare": limits,
        "rtl": {**rtl, **once},
        "litserve": {"packages": LITSERVE, **other},
        "load_generator": own_cost,
    }
    if seconds < 30:
        print(json.dumps(result))
    else:
        write("serve", "the HTTP endpoint under load, 2 cores", result, details)


if __name__ == "__main__":
    main()
