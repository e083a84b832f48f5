"""The application builder of a Serve config: `import_path: rtl.serving.application:application`.

`serve deploy` and KubeRay's RayService use it. `rtl serve` and `jobs/deploy.py` call
`rtl.serving.deployment.deploy` instead, which checks more and gives more helpful errors.
"""

# No `from __future__ import annotations`: Ray reads the class in `application`'s signature.
import os

from pydantic import Field
from ray import serve

from rtl import storage
from rtl.config.schema import Section, ServeConfig
from rtl.model import registry
from rtl.serving.deployment import build, token_digest
from rtl.serving.replica import Target


class Arguments(Section):
    """The `args` of the application in the Serve config."""

    storage: str = Field(min_length=1)
    """Storage root of the registry: a folder or an `s3://` prefix."""
    model: str = Field(min_length=1)
    """NAME follows the promoted version; NAME@VERSION, a path or a URI is fixed."""
    serve: ServeConfig = ServeConfig()
    """Limits, batching and replicas; host and port are in the Serve config itself."""


def application(args: Arguments) -> serve.Application:
    """Builds the endpoint; with RTL_TOKEN in the environment it asks for that token.

    Raises BundleError where the registry has no such model, so that the deployment fails before a
    replica starts.
    """
    root = storage.normalize(args.storage)
    uri = registry.resolve(root, args.model)
    follows = registry.follows(args.model)
    target = Target(root=root, name=args.model) if follows else Target(bundle=uri)
    return build(target, args.serve, token_sha256=token_digest(os.environ.get("RTL_TOKEN", "")))
