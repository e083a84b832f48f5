"""The verbs that take a finished model, in a terminal: each ends, and says what it did."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rtl import storage
from rtl.config.tree import Config
from rtl.data import shards
from rtl.evaluation import metrics
from rtl.model import bundle, registry
from tests.conftest import COLOURS, make_image
from tests.support.bundles import make_info, make_network
from tests.support.workplace import SharedCluster, Workplace, link_many, stop


@pytest.fixture(scope="module")
def models(folder: Path) -> str:
    """A storage root with two versions of `colours`, the second one current."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two would wait for each other where others use the cores too
    labels = np.arange(12) % 3
    probabilities = np.eye(3)[labels] * 0.9 + 0.1 / 3
    scores = metrics.evaluate(probabilities, labels, tuple(COLOURS)).to_dict()
    digest = shards.load_manifest(str(folder / "data")).digest
    root = str(folder / "models")
    for seed in (0, 1):
        info = make_info(
            unfrozen_layers=0, metrics={"val": scores, "test": scores}, manifest_digest=digest,
            config=Config().to_dict(),
        )  # fmt: skip
        bundle.save(str(folder / f"bundle-{seed}"), info, make_network(seed=seed))
        registry.register(root, "colours", str(folder / f"bundle-{seed}"))
    registry.promote(root, "colours", 1)
    torch.set_num_threads(threads)
    return root


def test_promote_canary_and_rollback(alone: Workplace, models: str) -> None:
    promoted = alone.run("rtl promote colours 2 --storage models")
    promoted.must_say("colours@2 is current; endpoints of that name follow within 2 s.")
    tried = alone.run("rtl canary colours 1 --share 0.2 --shadow --storage models")
    tried.must_say("colours@1 answers 20% of the images, for comparison only")
    back = alone.run("rtl rollback colours --storage models")
    back.must_say("colours@1 is current again")
    assert registry.current(models, "colours") == 1
    refused = alone.run("rtl promote colours 9 --storage models", 1)
    refused.must_say("colours has no version 9")


def test_evaluate_shows_scores_and_no_json(work: Workplace, models: str) -> None:
    line = "rtl evaluate colours@1 --data data --storage models"
    shown = work.run(line)
    shown.must_say("test (12 rows, 95 % intervals)")
    shown.find(r"accuracy +[01]\.\d{3} \([01]\.\d{3} to [01]\.\d{3}\)")
    assert "{" not in shown.transcript()


def test_compare_says_which_version_is_better_and_where_they_differ(
    work: Workplace, models: str
) -> None:
    line = "rtl compare colours@1 colours@2 --data data --storage models --html differing.html"
    shown = work.run(line, rows=60)
    shown.must_say("A: colours@1")
    shown.must_say("test of ")
    shown.find(r"(B|A) is better: of 12 rows|No difference")
    shown.find(r"ROC AUC.*[+-]0\.\d{3} to [+-]0\.\d{3}")
    shown.find(r"green +\D+4 ")
    shown.must_say("Photos that one model alone has right: differing.html")
    assert "</html>" in work.path("differing.html").read_text()
    refused = work.run("rtl compare colours@1 colours@1 --data data --storage models", 1)
    refused.must_say("are one model: its answers would not differ.")


def test_quantize_registers_a_version(alone: Workplace, models: str) -> None:
    done = alone.run("rtl quantize colours@1 --at-most 100 --data data --storage models")
    done.must_say("Rows compared")
    done.find(r"Accuracy on val \d\.\d+ in 8 bits, \d\.\d+ before")
    done.must_say("Registered as colours@3")
    done.must_say("Next: rtl promote colours 3 --storage models")


def test_predict_that_was_stopped_keeps_its_answers_and_goes_on(
    work: Workplace, models: str, shared_cluster: SharedCluster
) -> None:
    link_many(work.path("photos"), work.path("crowd"), 40)
    line = "rtl predict colours@1 crowd answers --storage models"
    with work.open(line) as terminal:
        terminal.wait_until(lambda: bool(re.search(r" [1-9]\d*/1920 ", terminal.screen())),
                            "an answer")  # fmt: skip
        command = stop(terminal)
    kept = re.search(r"Stopped\. (\d+) files of answers are kept at answers\.", terminal.lines())
    assert kept is not None, terminal.screen()
    assert command == line
    assert not storage.is_committed(str(work.path("answers")))
    assert shared_cluster.still_busy() == []
    first = {path: path.stat().st_mtime_ns for path in work.path("answers").rglob("*.parquet")}
    assert int(kept[1]) > 0

    again = work.run(command, TERM="dumb")
    assert "\x1b" not in again.raw.decode()
    again.must_say("1920 images, ")
    again.must_say("Answers at answers/answers")
    after = {path: path.stat().st_mtime_ns for path in first}
    assert [path for path in first if first[path] != after[path]] == []
    assert pq.ParquetDataset(work.path("answers/answers")).read().num_rows == 1920


def test_export_and_card(alone: Workplace, models: str) -> None:
    exported = alone.run("rtl export colours@1 exported --storage models --check photos/red")
    exported.must_say("it answered as the bundle")
    exported.must_say(f"Model at {alone.path('exported')}/model.onnx, its card beside it")
    card = alone.run("rtl card colours@1 --storage models")
    assert card.transcript().startswith("# colours")
    card.must_say("curl --data-binary @photo.jpg")


def test_deploy_stays_and_serve_ends_with_ctrl_c(
    work: Workplace, models: str, shared_cluster: SharedCluster
) -> None:
    deployed = work.run("rtl deploy colours@1 --set serve.port=0 --storage models")
    found = re.search(r"Serving (\S+) at (http://\S+) ", deployed.lines())
    assert found is not None, deployed.screen()
    image = make_image("red", 0)
    answer = httpx.post(f"{found[2]}/v1/predict", content=image, timeout=60)
    assert answer.status_code == 200, answer.text

    with work.open("rtl serve colours --set serve.port=0 --storage models") as serving:
        serving.wait_for(f"Try: curl --data-binary @photo.jpg {found[2]}/v1/predict")
        assert httpx.post(f"{found[2]}/v1/predict", content=image, timeout=60).status_code == 200
        command = stop(serving)
        serving.must_say("The endpoint has ended; the model stays registered.")
    assert command == "rtl serve colours --set serve.port=0 --storage models"
    with pytest.raises(httpx.ConnectError):
        httpx.get(found[2])
    assert shared_cluster.still_busy() == []
