"""A model over many images.

predict.py      `rtl predict`: predictions as Parquet
chunks.py       which images each of its files holds, and its plan
chunk_files.py  its files: computed by actors, checked when found again
evaluate.py     `rtl evaluate`: scores on a split
quantize.py     `rtl quantize`: a version in 8 bits, if it is as accurate
"""
