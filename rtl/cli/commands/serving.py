"""`rtl promote`, `rtl rollback`, `rtl canary`, `rtl serve`, `rtl deploy` and `rtl studio`."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtl.cli.arguments import flag, option, positional
from rtl.cli.commands.base import Configured, bundle_argument

if TYPE_CHECKING:
    from rtl.api.endpoints import Endpoint
    from rtl.config.tree import Config


@dataclass(frozen=True, kw_only=True)
class Promote(Configured):
    """Makes a version the current one."""

    verb = "promote"
    about = "Make a version of a model the current one."

    name: str = positional()
    version: int = positional(type=int)

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.registries import Registry
        from rtl.display.console import print_line

        settings = self.settings()
        Registry(settings.storage).promote(self.name, self.version)
        print_line(f"{self.name}@{self.version} is current; {_followers(settings)}")


@dataclass(frozen=True, kw_only=True)
class Rollback(Configured):
    """Goes back to the version before."""

    verb = "rollback"
    about = "Make the version before the current one current again."

    name: str = positional()

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.registries import Registry
        from rtl.display.console import print_line

        settings = self.settings()
        version = Registry(settings.storage).rollback(self.name)
        print_line(f"{self.name}@{version} is current again; {_followers(settings)}")


@dataclass(frozen=True, kw_only=True)
class StartCanary(Configured):
    """Starts a canary, or ends it."""

    verb = "canary"
    about = "Let a version answer a share of the images beside the current one."

    name: str = positional()
    version: int | None = positional("leave it out to end the canary", type=int, nargs="?")
    share: float = option(
        "--share", type=float, default=0.1, help="share of the images (default: 0.1)"
    )
    shadow: bool = flag("--shadow", "compare only: clients get the current version's answer")

    def execute(self) -> None:
        """See `Command`."""
        from rtl.api.registries import Registry
        from rtl.display.console import print_line

        settings = self.settings()
        canary = Registry(settings.storage).canary(
            self.name, self.version, share=self.share, shadow=self.shadow
        )
        if canary is None:
            print_line(f"{self.name} has no canary now; {_followers(settings)}")
            return
        print_line(
            f"{self.name}@{canary.version} answers {canary.share:.0%} of the images"
            f"{', for comparison only' if canary.shadow else ''}; {_followers(settings)} "
            "Compare them at /v1/traffic."
        )


@dataclass(frozen=True, kw_only=True)
class Deploy(Configured):
    """Serves a model, and leaves the endpoint to the cluster."""

    verb = "deploy"
    about = "Serve a model over HTTP on a cluster, and return."

    bundle: str = bundle_argument()

    def execute(self) -> None:
        """See `Command`."""
        self._deploy()

    def _deploy(self) -> Endpoint:
        from rtl.api.endpoints import serve
        from rtl.display.console import print_line

        token = os.environ.get("RTL_TOKEN", "")
        endpoint = serve(self.bundle, recipe=self.settings(), token=token, progress=True)
        print_line(f"Serving {endpoint.uri} at {endpoint.url} (a page for the browser)")
        header = ' -H "Authorization: Bearer $RTL_TOKEN"' if token else ""
        print_line(f"Try: curl{header} --data-binary @photo.jpg {endpoint.url}/v1/predict")
        return endpoint


@dataclass(frozen=True, kw_only=True)
class Serve(Deploy):
    """Serves a model until Ctrl-C."""

    verb = "serve"
    about = "Serve a model over HTTP until Ctrl-C."
    next_step = "Serve again with"

    def execute(self) -> None:
        """See `Command`."""
        from rtl.runtime import session

        endpoint = self._deploy()
        try:
            signal.pause()
        finally:
            if session.joined():  # else the cluster ends with this process
                endpoint.close()

    def standing(self) -> str:
        """See `Command`."""
        return "The endpoint has ended; the model stays registered."


@dataclass(frozen=True, kw_only=True)
class Studio(Configured):
    """Opens the studio until Ctrl-C."""

    verb = "studio"
    about = "Look at data, label, watch runs and promote models, in a page on this machine."
    next_step = "Open it again with"

    data: str | None = option(
        "--data", metavar="URI", help="the packed data set (default: the one that was open last)"
    )
    pool: str | None = option(
        "--pool", metavar="URI", help="folder or s3:// prefix of unlabelled photos"
    )
    name: str | None = option("--name", metavar="NAME", help="name of its models in the registry")
    port: int = option("--port", type=int, default=0, help="port on loopback (default: a free one)")
    no_browser: bool = flag("--no-browser", "print the link only")

    def execute(self) -> None:
        """See `Command`."""
        import webbrowser

        from rtl.display.console import print_line
        from rtl.studio import server
        from rtl.studio.workspace import Workspace

        workspace = Workspace(self.settings())
        workspace.begin(self.data, pool=self.pool, name=self.name)
        with server.running(workspace, port=self.port) as link:
            print_line(f"The studio is open at {link}")
            print_line("Ctrl-C ends it; labels that the page shows as saved stay.")
            if not self.no_browser:
                webbrowser.open(link)
            signal.pause()

    def standing(self) -> str:
        """See `Command`."""
        return "The studio has ended; every label that was shown as saved is kept."


def _followers(settings: Config) -> str:
    return f"endpoints of that name follow within {settings.serve.follow_s:g} s."
