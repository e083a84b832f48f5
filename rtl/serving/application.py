"""The builder that a Serve config names: `import_path: rtl.serving.application:application`.

For endpoints that Ray Serve keeps by itself: `serve deploy`, KubeRay's RayService. `rtl serve` and
`jobs/deploy.py` call `rtl.serve.deploy` instead, which checks more and says more.
"""

# No `from __future__ import annotations`: Ray reads the class in `application`'s signature.
import hashlib
import os

from pydantic import Field
from ray import serve

from rtl import storage
from rtl.config.schema import Section, ServeConfig
from rtl.model import registry
from rtl.serving.deployment import build
from rtl.serving.replica import Target


class Arguments(Section):
    """The `args` of the application."""

    storage: str = Field(min_length=1)
    """Folder or `s3://` prefix that the registry is under."""
    model: str = Field(min_length=1)
    """NAME follows what is promoted; NAME@VERSION, a path or a URI stays as it is."""
    serve: ServeConfig = ServeConfig()
    """Limits, batching, replicas; host and port are Ray Serve's own."""


def application(args: Arguments) -> serve.Application:
    """The endpoint of `args`; with RTL_TOKEN in the environment it asks for that token.

    Raises BundleError where the registry has no such model, so that the deployment fails before a
    replica starts.
    """
    root = storage.normalize(args.storage)
    uri = registry.resolve(root, args.model)
    follows = registry.follows(args.model)
    target = Target(root=root, name=args.model) if follows else Target(bundle=uri)
    token = os.environ.get("RTL_TOKEN", "")
    digest = hashlib.sha256(token.encode()).hexdigest() if token else None
    return build(target, args.serve, digest)
