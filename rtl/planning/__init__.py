"""Forecasts: time, memory, storage and cost of pack, search and train, before they are run.

`speeds` measures this cluster on the data set's own images, at most for a minute. `model` turns
that into the durations of the stages, without Ray. `plan` joins both, `kept` keeps the forecast for
the run that follows, whose report shows it beside the outcome.
"""
