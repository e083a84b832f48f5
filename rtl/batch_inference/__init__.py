"""A model over many images.

predict.py   `rtl predict`: answers as Parquet
evaluate.py  `rtl evaluate`: scores on a split
quantize.py  `rtl quantize`: a version in 8 bits, if it is as accurate
"""
