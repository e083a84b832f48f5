"""Two passes over the images of a source.

check.py    first pass: decodes and hashes every image
write.py    second pass: writes the shards
journal.py  what an interrupted first pass has found
tasks.py    tasks of Ray Data, and the bytes that they fetch
"""
