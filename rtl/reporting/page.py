"""The page: facts and charts through `page.html.j2`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from rtl.config import loading
from rtl.model import inception
from rtl.reporting import charts
from rtl.reporting.charts import Axis, Dot, Line
from rtl.reporting.facts import Facts, gather
from rtl.runs import stalls, trials
from rtl.runs.trials import Trial

MATRIX_CLASSES = 20
"""Number of classes up to which the whole confusion matrix is shown."""
_CONFUSIONS = 15


def report(run_uri: str) -> str:
    """The report of a finished run, as one HTML page that needs no other file.

    Raises NotFoundError where there is no run or where it has not ended.
    """
    return render(gather(run_uri))


def render(facts: Facts) -> str:
    """The page for some facts."""
    loader = jinja2.PackageLoader("rtl.reporting", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["duration"] = duration
    scores = facts.result.test or facts.result.val
    largest = max(sum(row) for row in scores.confusion)
    return environment.get_template("page.html.j2").render(
        facts=facts,
        result=facts.result,
        scores=scores,
        baseline=largest / scores.rows,
        search=facts.search,
        curves=_trial_curves(facts) if facts.trials else _epoch_curves(facts),
        waits=stalls.summary(facts.history),
        space=_space(facts),
        progress=_progress(facts.trials),
        reliability=charts.reliability(facts.bins, "Accuracy by predicted probability"),
        shares=any(trial.rows < 1 for trial in facts.trials),
        longest=max((trial.wall_seconds for trial in facts.trials), default=0.0),
        costs=[trials.spent([trial], facts.config.search).cost for trial in facts.trials],
        depths=sorted({trial.unfrozen_layers for trial in facts.trials}),
        confusions=_confusions(facts),
        show_matrix=len(scores.classes) <= MATRIX_CLASSES,
        first_block=_first_block(facts.result.unfrozen_layers),
        recipe=loading.to_yaml(facts.config),
    )


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"


def _first_block(unfrozen_layers: int) -> str:
    """Name of the first block that is trained; empty where only the head is."""
    return inception.BLOCKS[-unfrozen_layers] if unfrozen_layers else ""


def _trial_curves(facts: Facts) -> Markup | None:
    """The score of each trial over its epochs."""
    fits = [trial for trial in facts.trials if trial.history]
    depths = sorted({trial.unfrozen_layers for trial in facts.trials})
    winner = facts.search.winner if facts.search else None
    drawn = [
        Line(
            [(epoch.epoch + 1, epoch.score) for epoch in trial.history],
            f"{trial.title}, best {trial.score:.3f}, {trial.state}",
            depths.index(trial.unfrozen_layers),
            trial.number == winner,
        )
        for trial in fits
    ]
    name = facts.config.train.metric
    return _over_epochs(drawn, f"val {name}", f"The val {name} of each trial over its epochs")


def _epoch_curves(facts: Facts) -> Markup | None:
    """Losses of a single fit over its epochs."""
    train = [(epoch.epoch + 1.0, epoch.train_loss) for epoch in facts.history]
    val = [(epoch.epoch + 1.0, epoch.val.log_loss) for epoch in facts.history]
    drawn = [Line(train, "train loss", 0), Line(val, "val log loss", 1, strong=True)]
    return _over_epochs(drawn, "loss (nats)", "Train and val loss over the epochs")


def _over_epochs(drawn: Sequence[Line], name: str, label: str) -> Markup | None:
    spots = [spot for line in drawn for spot in line.points]
    if not spots:
        return None
    x = Axis.over("epoch", [1.0, *(a for a, _ in spots)], whole=True)
    return charts.lines(x, Axis.over(name, [b for _, b in spots]), drawn, label=label)


def _space(facts: Facts) -> Markup | None:
    """Depth against learning rate, each point with its best score."""
    points = [trial for trial in facts.points if trial.best and trial.strength is None]
    if not points or facts.search is None:
        return None
    low = min(trial.score for trial in points)
    high = max(trial.score for trial in points)
    first = {trial.number: trial for trial in facts.trials}[facts.search.winner]
    winner = first.number if first.finalist_of is None else first.finalist_of
    drawn = [
        Dot(
            trial.lr, trial.unfrozen_layers, f"{trial.score:.3f}",
            f"trial {trial.number}: {trial.epochs} epochs, {duration(trial.wall_seconds)}",
            (trial.score - low) / (high - low) if high > low else 1.0,
            trial.number == winner,
        )
        for trial in points
    ]  # fmt: skip
    depths = [float(trial.unfrozen_layers) for trial in points]
    y = Axis("unfrozen layers", min(depths) - 0.6, max(depths) + 1, sorted(set(depths)))
    x = Axis.rates("learning rate of the head", [trial.lr for trial in points])
    return charts.dots(x, y, drawn, label="Best val score by depth and learning rate")


def _progress(found: Sequence[Trial]) -> Markup | None:
    """The best score so far over the search's time."""
    epochs = sorted((epoch for trial in found for epoch in trial.history), key=lambda e: e.at)
    if not epochs:
        return None
    spots: list[tuple[float, float]] = []
    best = epochs[0].score
    for epoch in epochs:
        spots.append((epoch.at, best))
        best = max(best, epoch.score)
        spots.append((epoch.at, best))
    x = Axis.over("seconds since the first trial began", [0.0, *(a for a, _ in spots)])
    y = Axis.over("best val score so far", [b for _, b in spots])
    drawn = [Line(spots, "best so far", 0, strong=True)]
    return charts.lines(x, y, drawn, label="The best val score so far over the search's time")


def _confusions(facts: Facts) -> list[dict[str, Any]]:
    """The most frequent mistakes: true and predicted class, rows, and share of the true class."""
    scores = facts.result.test or facts.result.val
    cells: list[dict[str, Any]] = [
        {
            "true": scores.classes[i],
            "predicted": scores.classes[j],
            "rows": count,
            "share": count / sum(row),
        }
        for i, row in enumerate(scores.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(cells, key=lambda cell: (-cell["rows"], cell["true"], cell["predicted"]))[
        :_CONFUSIONS
    ]
