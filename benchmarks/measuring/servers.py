"""The three servers that `serve.py` compares: the bare network, rtl's endpoint and LitServe."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from measuring import runner

CORES = 2
BATCH = 16
NAME = "cells"
SECOND, FIRST, IN_8_BITS = 1, 2, 3
"""Versions of it: another head, the one that is measured, that one in 8 bits."""
PREDICT, MODEL = "/v1/predict", "/v1/model"


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

    def outputs(version: torch.nn.Sequential) -> Output:
        return bundle.Classifier(info, version, torch.device("cpu")).output(some)

    for seed in (2, 1):
        inception.init_head(network, seed)
        said = outputs(network)
        watched = replace(info, baseline=baseline.measure(said.probabilities, said.pooled))
        bundle.save(f"{root}/made", watched, network)
        registry.register(root, NAME, f"{root}/made")
    images = torch.split(some, BATCH)
    smaller = kernels.quantize_network(network, images, mean=info.mean, std=info.std)
    both = [said.probabilities.numpy(), outputs(smaller).probabilities.numpy()]
    before, after = (Predictions([""] * len(some), both[0].argmax(1), p) for p in both)
    bundle.save(
        f"{root}/made", replace(watched, quantized=quantize.compare(before, after)), smaller
    )
    registry.register(root, NAME, f"{root}/made")
    registry.promote(root, NAME, FIRST)


def measure_network(uri: str, photos: Sequence[str], seconds: float) -> dict[str, Any]:
    """Measures the network with nothing around it, and gives its answer for the first photo."""
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
        next_batch = itertools.cycle(batches).__next__

        def answer_batch() -> None:
            pixels = list(decoders.map(classifier.preprocess, next_batch()))
            classifier.predict(torch.stack(pixels))

        rate = runner.rate(answer_batch, seconds=seconds, items=BATCH)
    assert torch.get_num_threads() == CORES
    next_photo = itertools.cycle(encoded).__next__

    def answer_one() -> None:
        classifier.predict(classifier.preprocess(next_photo())[None])

    batch_s = {1: statistics.median(runner.times(answer_one, seconds=seconds))}
    for size in (2, 4, 8, BATCH):
        pixels = torch.stack([classifier.preprocess(photo) for photo in encoded[:size]])
        took = runner.times(functools.partial(classifier.predict, pixels), seconds=seconds / 8)
        batch_s[size] = statistics.median(took)
    first = classifier.predict(classifier.preprocess(encoded[0])[None])[0]
    return {
        "images_per_s": rate, "p50_s": batch_s[1], "batch_s": batch_s, "answer": first.tolist(),
    }  # fmt: skip


def network_alone(uri: str, photos: Sequence[str], seconds: float) -> dict[str, Any]:
    """`measure_network` in a process that has the environment from its start."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_network, uri, photos, seconds).result()


@contextlib.contextmanager
def endpoint() -> Iterator[Callable[[str], str]]:
    """A cluster; the function that is given serves a bundle's URI in it and returns the URL."""
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


@contextlib.contextmanager
def litserve(uri: str, folder: str) -> Iterator[str]:
    """The URL of the bundle behind LitServe, which is in `folder`."""
    from rtl.ports import free_port

    script = Path(__file__).with_name("litserver.py")
    port = free_port()
    arguments = [sys.executable, str(script), uri, str(port), str(CORES), str(BATCH)]
    process = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": folder})
    url = f"http://127.0.0.1:{port}"
    try:
        while not is_up(f"{url}/health"):
            assert process.poll() is None, "LitServe ended before it answered"
            time.sleep(0.5)
        yield f"{url}/predict"
    finally:
        own = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(30)
        for child in psutil.wait_procs(own, timeout=10)[1]:
            child.kill()


def is_up(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


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


def check_equal(found: list[float], expected: list[float]) -> None:
    """Fails where a server has another network, or prepares photos in another way."""
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 0.01, (found, expected)
