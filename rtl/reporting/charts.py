"""Numbers as SVG, coloured by the page's CSS variables, so that light and dark both fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from rtl.evaluation.calibration import Bin

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 12, 40
HUES = 8
"""Number of the page's colours, `--hue-0` and on."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    points: Sequence[tuple[float, float]]
    title: str
    """Shown when pointed at."""
    hue: int
    strong: bool = False


@dataclass(frozen=True)
class Dot:
    """One dot of a chart."""

    x: float
    y: float
    text: str
    title: str
    share: float
    """Saturation of its colour, from 0 to 1."""
    strong: bool = False


@dataclass(frozen=True)
class Axis:
    """One direction of a chart."""

    name: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False
    form: Callable[[float], str] = "{:g}".format

    @classmethod
    def over(
        cls, name: str, values: Sequence[float], *, steps: int = 4, whole: bool = False
    ) -> Axis:
        """An axis with round ticks around some values; `whole` ticks are integers."""
        low, high = min(values), max(values)
        step = _round_step((high - low) / steps or abs(high) / steps or 1.0)
        step = max(1.0, round(step)) if whole else step
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        ticks = [i * step for i in range(first, last + 1)]
        return cls(name, ticks[0], ticks[-1], ticks)

    @classmethod
    def rates(cls, name: str, values: Sequence[float]) -> Axis:
        """A logarithmic axis with the values that occur, or their ends where they are many."""
        ticks = sorted(set(values))
        ticks = ticks if len(ticks) <= 6 else [ticks[0], math.sqrt(ticks[0] * ticks[-1]), ticks[-1]]
        return cls(name, ticks[0] / 1.5, ticks[-1] * 1.5, ticks, log=True, form="{:.2g}".format)

    def place(self, value: float) -> float:
        """Position of a value, from 0 at `low` to 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def lines(x: Axis, y: Axis, drawn: Sequence[Line], *, label: str) -> Markup:
    """Lines over two axes."""
    parts = []
    for line in sorted(drawn, key=lambda one: one.strong):
        spots = [(_x(x, a), _y(y, b)) for a, b in line.points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        style = f'style="--hue: var(--hue-{line.hue % HUES})"'
        kind = "line strong" if line.strong else "line"
        dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in spots)
        parts.append(
            f'<g class="{kind}" {style}><title>{escape(line.title)}</title>'
            f'<polyline points="{path}"/>{dots}</g>'
        )
    return _frame(x, y, "".join(parts), label=label)


def dots(x: Axis, y: Axis, drawn: Sequence[Dot], *, label: str) -> Markup:
    """Dots with a text beside each, over two axes."""
    parts = [
        f'<g class="dot{" strong" if dot.strong else ""}" style="--share: {100 * dot.share:.0f}%">'
        f"<title>{escape(dot.title)}</title>"
        f'<circle cx="{_x(x, dot.x):.1f}" cy="{_y(y, dot.y):.1f}" r="11"/>'
        f'<text x="{_x(x, dot.x):.1f}" y="{_y(y, dot.y) - 16:.1f}">{escape(dot.text)}</text></g>'
        for dot in drawn
    ]
    return _frame(x, y, "".join(parts), label=label)


def reliability(bins: Sequence[Bin], label: str) -> Markup:
    """Accuracy over confidence, with intervals; the diagonal is perfect calibration."""
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    x, y = Axis("predicted probability", 0, 1, ticks), Axis("accuracy", 0, 1, ticks)
    parts = [
        f'<line class="guide" x1="{_x(x, 0)}" y1="{_y(y, 0)}" x2="{_x(x, 1)}" y2="{_y(y, 1)}"/>'
    ]
    for one in bins:
        place, share = _x(x, one.confidence), one.accuracy
        title = f"{one.rows} rows: predicted {one.confidence:.3f}, correct {share.value:.3f}"
        parts.append(
            f'<g class="line" style="--hue: var(--hue-0)"><title>{title}</title>'
            f'<line x1="{place:.1f}" y1="{_y(y, share.low):.1f}" x2="{place:.1f}" '
            f'y2="{_y(y, share.high):.1f}"/>'
            f'<circle cx="{place:.1f}" cy="{_y(y, share.value):.1f}" r="5"/></g>'
        )
    return _frame(x, y, "".join(parts), label=label)


def _frame(x: Axis, y: Axis, inside: str, *, label: str) -> Markup:
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in y.ticks:
        at = f"{_y(y, tick):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick y" x="{_LEFT - 8}" y="{at}">{escape(y.form(tick))}</text>')
    for tick in x.ticks:
        place = f'x="{_x(x, tick):.1f}" y="{HEIGHT - _BOTTOM + 16}"'
        parts.append(f'<text class="tick x" {place}>{escape(x.form(tick))}</text>')
    parts.append(
        f'<text class="name" x="{(WIDTH + _LEFT - _RIGHT) / 2}" y="{HEIGHT - 4}">{escape(x.name)}'
        f'</text><text class="name" transform="translate(12 {(HEIGHT - _BOTTOM + _TOP) / 2}) '
        f'rotate(-90)">{escape(y.name)}</text>'
    )
    return Markup("".join([*parts, inside, "</svg>"]))  # noqa: S704 -- texts are escaped above


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.place(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.place(value) * (HEIGHT - _TOP - _BOTTOM)


def _round_step(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten at or above `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= step * 0.999)
