"""Images with an uncertain answer, kept for labelling: off unless `serve.keep_uncertain` is set.

offers.py    in each replica: hands images over beside the requests
pool.py      in the aggregator: one writer of a bounded pool of files
"""
