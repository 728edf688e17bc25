from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Policy:
    """Channels and locations at one version. Immutable."""

    @property
    def number(self) -> int: ...
    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def specs(self) -> dict[str, Any]: ...
    @property
    def locations(self) -> dict[str, tuple[bool, bool]]: ...
    def __init__(
        self, number: int, specs: Mapping[str, Any], locations: Mapping[str, tuple[bool, bool]]
    ) -> None:
        """``specs``: name → ChannelSpec; ``locations``: name → (sells, returns)."""

    def sells(self, location: str) -> bool:
        """True if units may be taken at this location."""

@disjoint_base
class Row:
    """What this worker last saw of a pool."""

    text: bytes
    round: int
    seen_at: float
    planned: int
    used: bool
    @property
    def pool(self) -> bytes: ...
    @property
    def sku(self) -> str: ...
    @property
    def location(self) -> str: ...
    def __init__(self, sku: str, location: str) -> None: ...
    def saw(self, text: bytes, round: int, seen_at: float) -> None: ...
    def void(self, text: bytes, round: int, guessed: bool) -> None: ...

@disjoint_base
class Sku:
    """A SKU's policy and where it lies, as this worker last saw it. Immutable but for ``rows``."""

    round: int
    seen_at: float
    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def text(self) -> bytes: ...
    @property
    def spec(self) -> Any: ...
    @property
    def limited(self) -> bool: ...
    @property
    def locations(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> dict[str, Row]: ...
    def __init__(
        self,
        name: str,
        number: int,
        text: bytes,
        spec: Any,
        locations: Iterable[str],
        rows: dict[str, Row],
    ) -> None: ...
