"""Evaluation: scores with intervals, calibration, prediction sets, comparison and drift.

metrics.py        scores of a split, with intervals
predictions.py    a split's probabilities, gathered from all workers, and their file
calibration.py    temperature scaling, reliability, and the limit of "uncertain"
conformal.py      sets of classes that hold the true one with a stated probability
paired.py         two models on the same rows
baseline.py       drift of live predictions from those on `val`
live_accuracy.py  accuracy of live predictions, estimated without labels
"""
