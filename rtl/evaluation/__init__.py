"""How good a model is, and how sure that is.

metrics.py      scores of a split, with intervals
predictions.py  a split's probabilities, gathered from all workers and kept
calibration.py  probabilities that can be trusted, and when to say "uncertain"
paired.py       two models on the same rows
baseline.py     a model's answers on its own data, and how far live ones have moved
"""
