"""The HTTP endpoint against the network alone, and against LitServe; overload, a swap, memory.

    python benchmarks/serve.py [--seconds 60] [--memory-minutes 10] [--turns 3]

All on the same cores, in one run. The load comes from a process of its own (`measuring/load.py`;
what that costs is in the record) and sends photos of ELPV as their files; the bundle is Inception
V3 at 299 pixels. The limit, `bare`, decodes 16 photos with all cores, then has them through the
network; its latency is that of one photo. bare, rtl and LitServe are started anew for each of
`--turns`, the servers in reversed order every other time and bare before and after each turn, so
that a machine that becomes slower does so for all. Rates are means over the turns, percentiles
those of all their requests.

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
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from measuring import load, queueing, runner, servers
from measuring.record import write
from measuring.servers import BATCH, CORES, FIRST, IN_8_BITS, MODEL, NAME, PREDICT, SECOND

CLIENTS = 3 * BATCH
PHOTOS = 256
LITSERVE = ("litserve==0.2.19", "pyzmq==27.3.0")


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
    before = servers.memory_mb()
    found = load.run(url, photos, seconds / 3, rate)
    after = servers.memory_mb()
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


def growth(url: str, photos: Sequence[str], minutes: float, rate: float) -> dict[str, Any]:
    """Memory under half load: the last quarter's median less the first quarter's."""
    every = min(30.0, minutes * 60 / 20)
    samples: list[dict[str, float]] = []
    with load.running(url, photos, minutes * 60, rate) as process:
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            time.sleep(every)
            samples.append(servers.memory_mb())
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


def compare(
    uri: str, folder: str, photos: Sequence[str], *, seconds: float, turns: int
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, load.Result]]]]:
    """The bare network before, between and after the turns, and the loads of both servers."""
    limits: list[dict[str, Any]] = []

    def bare() -> dict[str, load.Result]:
        limits.append(servers.network_alone(uri, photos, seconds / 2))
        return {}

    def rtl() -> dict[str, load.Result]:
        with servers.endpoint() as serve:
            url = serve(uri)
            said = httpx.post(url, content=Path(photos[0]).read_bytes(), timeout=60).json()
            ordered = sorted(said["results"][0]["predictions"], key=lambda p: str(p["label"]))
            servers.check_equal([p["probability"] for p in ordered], limits[0]["answer"])
            return loads(url, photos, seconds)

    def litserve() -> dict[str, load.Result]:
        with servers.litserve(uri, folder) as url:
            said = httpx.post(url, content=Path(photos[0]).read_bytes(), timeout=60).json()
            servers.check_equal(said["probabilities"], limits[0]["answer"])
            return loads(url, photos, seconds)

    found = runner.in_turns({"rtl": rtl, "litserve": litserve}, turns=turns, limit=bare)
    return limits, found


def rtl_alone(
    root: str, photos: Sequence[str], seconds: float, minutes: float, rate: float
) -> dict[str, Any]:
    """What is measured once: overload, memory, a promotion, the version in 8 bits."""
    from rtl.model import registry
    from rtl.serving import deployment

    with servers.endpoint() as serve:
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


def ratios(
    limits: Sequence[dict[str, Any]], *, rtl: dict[str, Any], other: dict[str, Any],
    once: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The figures of the result: rtl to the bare network and to LitServe, and what has no ratio."""
    limit = {key: statistics.fmean(run[key] for run in limits) for key in ("images_per_s", "p50_s")}
    batch_s = {
        n: statistics.fmean(run["batch_s"][n] for run in limits) for n in (1, 2, 4, 8, BATCH)
    }
    ideal_s = queueing.ideal(batch_s, limit["images_per_s"] / 2, 99)
    in_8_bits = once["int8"]

    def ratio(key: str, to: dict[str, Any], of: dict[str, Any] = rtl) -> float:
        return round(float(of[key]) / float(to[key]), 3)

    return {
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


def main() -> None:
    """Measures bare, rtl and LitServe in turns, then the rest of rtl."""
    from rtl.runtime import session

    session.silence()  # before Ray is imported, as by the next line
    from rtl.data import elpv
    from rtl.model import registry

    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0, help="of one load")
    parser.add_argument("--memory-minutes", type=float, default=10.0)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    seconds = options.seconds
    os.environ.update(session.env_vars(CORES))  # the same for all three
    photos = [str(photo.path) for photo in elpv.sample(elpv.load_photos(), PHOTOS)]
    with tempfile.TemporaryDirectory() as folder:
        servers.make_registry(folder, photos)
        uri = registry.resolve(folder, f"{NAME}@{FIRST}")
        packages = f"{folder}/litserve"
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", packages]
        subprocess.run([*pip, *LITSERVE], check=True)
        limits, found = compare(uri, packages, photos, seconds=seconds, turns=options.turns)
        rtl, other = (figures(found[name], seconds) for name in ("rtl", "litserve"))
        once = rtl_alone(folder, photos, seconds, options.memory_minutes, rtl["images_per_s"])
        own_cost = load.own_cost(photos, seconds / 6, once["overload"]["rate"])
    result = ratios(limits, rtl=rtl, other=other, once=once)
    throughputs = [
        a["images_per_s"] / b["images_per_s"]
        for a, b in zip(rtl["turns"], other["turns"], strict=True)
    ]
    details = {
        "ratios": "rtl / bare, rtl / LitServe",
        "litserve_throughput_ratio_over_turns": runner.interval(throughputs),
        "bare": limits,
        "rtl": {**rtl, **once},
        "litserve": {"packages": LITSERVE, **other},
        "load_generator": own_cost,
    }
    if seconds < 30:
        print(json.dumps(result))
    else:
        what = "the HTTP endpoint under load, 2 cores"
        write("serve", what, result=result, details=details)


if __name__ == "__main__":
    main()
