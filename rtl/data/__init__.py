"""From a source of labelled images to batches.

sources/      lists a source's rows, without reading a pixel
images/       decodes images to pixels
shards.py     format of a data set: Parquet shards and their manifest
placement.py  splits and shards of the rows: pure decisions
packing/      the two passes of packing over a source's images
pack.py       packs a source into a data set
history.py    steps from a data set's packing to its present version
batches.py    order of an epoch, and its batches for each worker
streaming.py  batches that Ray Data reads ahead
"""
