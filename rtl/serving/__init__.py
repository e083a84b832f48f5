"""The HTTP endpoint: a bundle behind `POST /v1/predict`, and a page at `/`.

engine.py            the models in service: decode, swap, compare      (no Ray)
batching.py          what waits for a model, and its threads           (no Ray)
traffic.py           what they saw: metrics, drift, two models compared  (no Ray)
stats_aggregator.py  one process that adds that up for all replicas    (no Ray)
replica.py           one process: an engine that follows the registry
deployment.py        the Ray Serve application of replicas
application.py       the same for a Serve config file
http/                requests and answers                              (no Ray)
"""
