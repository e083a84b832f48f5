"""The HTTP endpoint: a bundle behind `POST /v1/predict`, and a page at `/`.

body.py         a request's body: limits, and the images in it        (no Ray)
app.py          HTTP: routes, JSON out, errors                        (no Ray)
openapi.py      the same for generated clients                        (no Ray)
static.py       the page                                              (no Ray)
engine.py       the models in service: decode, swap, compare          (no Ray)
batching.py     what waits for a model, and the threads it runs on    (no Ray)
pace.py         when a refusal goes out                               (no Ray)
traffic.py      what they saw: metrics, drift, two models compared    (no Ray)
clerk.py        one process that adds that up for all replicas        (no Ray)
replica.py      one process: an engine that follows the registry
deployment.py   the Ray Serve application of replicas
"""
