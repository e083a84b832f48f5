"""The HTTP endpoint: a bundle behind `POST /v1/predict`, and a page at `/`.

models.py            records: the models in service, and an answer     (no Ray)
engine.py            decodes, classifies, swaps models, compares       (no Ray)
batching.py          the queue of images and its workers               (no Ray)
traffic.py           counts, drift, estimated accuracy, the canary     (no Ray)
prometheus.py        the same as Prometheus metrics                    (no Ray)
stats_aggregator.py  one process that adds up the counts of replicas   (no Ray)
replica.py           one process: an engine that follows the registry
deployment.py        starts, changes and ends the Ray Serve application
application.py       the same for a Serve config file
uncertain/           images that are kept for labelling                (no Ray)
http/                requests and answers                              (no Ray)
"""
