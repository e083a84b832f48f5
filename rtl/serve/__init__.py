"""The HTTP endpoint: a bundle behind `POST /predict`.

app.py          HTTP: bodies in, JSON out, limits and errors       (no Ray)
engine.py       the model in service: decode, batch, swap, health  (no Ray)
deployment.py   one Ray Serve deployment around both
"""

from rtl.serve.deployment import build, deploy, shutdown

__all__ = ["deploy", "shutdown", "build"]
