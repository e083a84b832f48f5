"""The frozen trunk's outputs: computed once, cached, read in each epoch.

framing.py     `data.framing: auto`: how images become squares, decided by a probe
cost.py        which depths are worth caching
cache.py       where features lie, which fits read them, how they are read
extraction.py  one pass of the trunk over a data set
reuse.py       rows that other versions of a data set have already
trunk.py       what one process of the pass does
prune.py       `rtl features`: list the caches, remove what nobody can use
"""
