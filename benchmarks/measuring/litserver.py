"""The bundle behind LitServe, as its documentation has a batched model served.

    python benchmarks/measuring/litserver.py BUNDLE PORT THREADS BATCH

Bodies are the encoded photos (LitServe's own choice of JSON or a form would cost it more), decoding
and the forward pass are rtl's. One worker: a second model on the same cores would only share them.
"""

# No postponed annotations: LitServe reads that of `decode_request`.

import sys
from typing import Annotated, Any

import litserve
import torch
from fastapi import Body
from torch import Tensor

from rtl.model.bundle import Classifier

BATCH_TIMEOUT_S = 0.005  # with 0 its worker never sleeps, and takes a core from the model


class Api(litserve.LitAPI):  # type: ignore[misc]  # LitServe has an environment of its own
    """What LitServe asks of a model."""

    uri: str
    threads: int

    def setup(self, device: str) -> None:  # noqa: ARG002 -- LitServe's signature
        """Loads the bundle in the worker."""
        torch.set_num_threads(self.threads)
        self.classifier = Classifier.load(self.uri)

    def decode_request(
        self, request: Annotated[bytes, Body(media_type="application/octet-stream")]
    ) -> Tensor:
        """Encoded bytes to uint8 (3, S, S)."""
        return self.classifier.preprocess(request)

    def predict(self, x: Tensor) -> Tensor:
        """uint8 (N, 3, S, S) to float32 (N, C)."""
        return self.classifier.predict(x)

    def encode_response(self, output: Tensor) -> dict[str, Any]:
        """The probabilities, in the order of the bundle's classes."""
        return {"probabilities": output.tolist()}


def main() -> None:
    """Serves until SIGTERM."""
    uri, port, threads, batch = sys.argv[1], *map(int, sys.argv[2:])
    api = Api(max_batch_size=batch, batch_timeout=BATCH_TIMEOUT_S)
    api.uri, api.threads = uri, threads
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
