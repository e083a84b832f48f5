"""The frozen trunk's outputs: computed once, cached, read each epoch.

cache.py       where features lie, what they cost, whether they pay, how they are read
extraction.py  the pass of the trunk over a data set
prune.py       `rtl features`: list the cache, remove what nobody can use
"""
