"""HTTP of the endpoint, without Ray.

app.py          routes, answers, errors
errors.py       a request that is answered with an error
error_limit.py  when a refusal goes out
cors.py         web pages of other origins
openapi.py      the interface, for generated clients
static.py       the page, from `page/`
request/        what a request asks
"""
