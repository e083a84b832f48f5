"""The probe: a linear classifier on the pretrained network's features, and fits that start from it.

solver.py    the solution, its strength chosen by cross-validation
head.py      the head that a fit starts from
rows.py      features and targets of a data set's rows
start.py     from a data set to the head of its fits
"""

from rtl.training.probe.head import Head
from rtl.training.probe.solver import STRENGTHS, Probe, Rows, assign_folds, solve

__all__ = ["STRENGTHS", "Head", "Probe", "Rows", "assign_folds", "solve"]
