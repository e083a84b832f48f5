"""HTTP of the endpoint, without Ray.

app.py          the application: routes, middleware, exception handlers
handlers.py     the handler of each route
schemas.py      the types of the answers
errors.py       errors as JSON, and their handlers
error_limit.py  the rate limit for client errors
cors.py         web pages of other origins
openapi.py      the OpenAPI document, from the types
static.py       the page, from `page/`
request/        the images and options of a request
"""
