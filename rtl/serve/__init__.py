"""The HTTP endpoint: a bundle behind `POST /v1/predict`, and a page at `/`.

app.py          HTTP: routes, JSON out, errors                        (no Ray)
body.py         a request's body, within limits                       (no Ray)
asked.py        the images and options in it                          (no Ray)
multipart.py    ... of a form with files                              (no Ray)
json_body.py    ... of JSON                                           (no Ray)
base64_text.py  base64 as clients write it                            (no Ray)
options.py      top_k and explain                                     (no Ray)
errors.py       a request that is answered with an error              (no Ray)
cors.py         web pages of other origins                            (no Ray)
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
