"""The learning curve: scores against labels, and what more labels would bring.

measure.py   the curve of the labels that are there
forecast.py  its continuation, with an interval, and its ceiling
"""
