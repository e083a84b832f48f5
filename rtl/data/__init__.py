"""From a source of labelled images to batches.

sources/      lists a source's rows, without reading a pixel
images/       encoded images to pixels
shards.py     the data set's format: Parquet shards and their manifest
placement.py  which split and which shard a row goes to
pack.py       a source into a data set
batches.py    which rows a worker reads, in which order
streaming.py  a data set's images, decoded by Ray Data, as batches
"""
