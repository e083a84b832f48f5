"""One trial of a search, in the processes that Ray Tune starts for it.

process.py  a trial's process: it runs a fit of its own, or the workers that share one
group.py    a trial of several workers
winner.py   the best trial's evaluation and bundle
"""
