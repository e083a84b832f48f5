"""`Registry`: the numbered models of each name, and which one is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtl.api.configuration import Location, text_of
from rtl.config.tree import Config

if TYPE_CHECKING:
    from rtl.model.registry import Canary


@dataclass(frozen=True)
class Registry:
    """The registry under a storage root, such as `rtl-data` or `s3://bucket/rtl`."""

    storage: Location = Config().storage

    @property
    def uri(self) -> str:
        """The folder or prefix that holds it."""
        from rtl import storage

        return storage.join(storage.normalize(self._root), "registry")

    def names(self) -> list[str]:
        """The names that have a version, sorted."""
        from rtl.model import registry

        return registry.names(self._root)

    def versions(self, name: str) -> list[int]:
        """The versions of a name, ascending; none for an unknown name."""
        from rtl.model import registry

        return registry.versions(self._root, name)

    def current(self, name: str) -> int | None:
        """The version that is served; None before the first promotion."""
        from rtl.model import registry

        return registry.current(self._root, name)

    def promote(self, name: str, version: int) -> None:
        """Makes a version the current one, after all of its checks, and ends a canary.

        Endpoints that serve the name follow within seconds. Raises BundleError.
        """
        from rtl.model import registry

        registry.promote(self._root, name, version)

    def rollback(self, name: str) -> int:
        """Makes the version before the current one current again, and returns its number.

        Raises BundleError where there is none.
        """
        from rtl.model import registry

        return registry.rollback(self._root, name)

    def canary(
        self, name: str, version: int | None, *, share: float = 0.1, shadow: bool = False
    ) -> Canary | None:
        """Lets a version answer a share of the images beside the current one; None ends that.

        With `shadow` its answers are compared, not given. Raises BundleError.
        """
        from rtl.model import registry

        canary = None if version is None else registry.Canary(version, share, shadow)
        registry.set_canary(self._root, name, canary)
        return canary

    @property
    def _root(self) -> str:
        return text_of(self.storage)
