"""Interfaces between the networks and their callers.

The registry calls architecture modules through `ArchitectureModule`; the pipeline calls networks
through the protocol of their role and never asks for an architecture by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field as DataclassField
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from ..ops.gaussian_process import Field
from .spec import MemoryEntries, Spec


class NetworkConfig(Protocol):
    """A frozen dataclass with every value that changes a tensor's shape; JSON-serializable."""

    __dataclass_fields__: ClassVar[dict[str, DataclassField[Any]]]


# --- Architecture modules ------------------------------------------------------------------------


class ArchitectureModule(Protocol):
    """Members that `registry` needs in the module of every architecture."""

    @property
    def NAME(self) -> str:
        """Key in `registry.ARCHITECTURES`."""
        ...

    @property
    def PRESETS(self) -> Mapping[str, NetworkConfig]:
        """Preset name -> configuration."""
        ...

    @property
    def Config(self) -> Callable[..., NetworkConfig]:
        """Class of the configuration."""
        ...

    def spec(self, config: Any) -> Spec:
        """Return the facts that the pipeline needs about a network of this configuration."""
        ...


@runtime_checkable
class PublishedArchitecture(ArchitectureModule, Protocol):
    """Module of an architecture whose official checkpoints can be loaded."""

    def detect(self, keys: set[str]) -> bool:
        """Return True if `keys` are the tensor names of an official checkpoint."""
        ...

    def config_from(self, state: Mapping[str, Tensor]) -> NetworkConfig:
        """Read the configuration from the names and shapes of an official checkpoint."""
        ...

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a new dict with official tensor names replaced by ours."""
        ...


# --- Networks, by role ---------------------------------------------------------------------------


class AutomaticNetwork(Protocol):
    """Network of the role "automatic"."""

    def __call__(self, gray_rgb: Tensor, /) -> Tensor:
        """Map gray RGB (B, 3, H, W) in 0..1 to ab (B, 2, H, W) in Lab units."""
        ...


class EncodedImage(Protocol):
    """Result of `MemoryNetwork.encode`: independent of color memory and fusion weights."""

    @property
    def features(self) -> Tensor:
        """(B, c, H/4, W/4): queries to the color memory are computed from these."""
        ...

    @property
    def weights(self) -> Tensor:
        """(B, n) fusion weights; each row sums to 1."""
        ...


class MemoryModule(Protocol):
    """Color memory inside a network.

    Networks whose file keeps the projection also have the buffers `components` (k, c) and
    `offset` (k,): keys = semantics @ components^T + offset.
    """

    @property
    def keys(self) -> Tensor:
        """(m, k) semantic keys."""
        ...

    @property
    def values(self) -> Tensor:
        """(n, m, 2) ab in Lab units."""
        ...

    def attend(self, x: Tensor, values: Tensor, keys: Tensor | None = None) -> Tensor:
        """Attend from features (B, h, w, c) to `values` (B, m, d): (B, h, w, d)."""
        ...


class MemoryNetwork(Protocol):
    """Automatic network with a color memory, that is with `Spec.memory`."""

    @property
    def encoder(self) -> nn.Module:
        """Computes the semantics; its vectors identify it, see `color_memory.memory`."""
        ...

    @property
    def memory(self) -> MemoryModule:
        """The network's own color memory."""
        ...

    def __call__(
        self, gray_rgb: Tensor, memory: MemoryEntries | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Map gray RGB (B, 3, H, W) in 0..1 to ab (B, 2, H, W) in Lab units.

        Args:
            gray_rgb: images.
            memory: replaces the entries stored in the network.
            weights: (B, n) fusion weights that replace the predicted ones.
        """
        ...

    def encode(self, gray_rgb: Tensor) -> EncodedImage:
        """Run the part of the network that does not depend on memory and fusion weights."""
        ...

    def decode(
        self, encoded: Any, memory: MemoryEntries | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Finish an image that this network has encoded: ab (B, 2, H, W) in Lab units."""
        ...

    def semantics(self, gray_rgb: Tensor) -> Tensor:
        """Return the features that a color memory clusters: (B, h, w, c)."""
        ...


class ReferencePrediction(NamedTuple):
    """Prediction of a reference network for its targets."""

    ab: Tensor
    """(B, 2, H, W) or (B, 2, H/2, W/2) in Lab units."""
    confidence: Tensor
    """(B, 1, H/4, W/4) in 0..1: how reliably the references determine the color of a location."""
    cues: Tensor
    """(B, c, H/4, W/4): inputs of the confidence model, see `match_confidence.confidence_cues`."""


class ReferenceNetwork(Protocol):
    """Network of the role "exemplar".

    References are encoded once for all targets of one size. The encoded form is private to the
    network: callers keep it and pass it back to `predict`.
    """

    def encode_references(
        self,
        references: Sequence[Tensor],
        size: Sequence[int],
        trusts: Sequence[Tensor | None] | None = None,
    ) -> Any:
        """Encode references for targets of one size.

        Args:
            references: N tensors (G, 3, H', W'): L / 50 - 1, a / 110, b / 110.
            size: (H, W) of the targets.
            trusts: N tensors (G, 1, H', W') in 0..1, or None for full trust.
        """
        ...

    def predict(self, target: Tensor, references: Any) -> ReferencePrediction:
        """Color targets (B, 3, H, W): L / 50 - 1 three times; B = G, or any B for G = 1."""
        ...


class HintNetwork(Protocol):
    """Network of the role "pointhint"."""

    @property
    def kernel(self) -> Callable[[Tensor], Field] | None:
        """Learned covariance of L (B, 1, H, W) in 0..100 for the color prior; None if absent."""
        ...

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map the input (B, 4, H, W) to ab (B, 2, H, W) in Lab units.

        Input channels: L / 50 - 1; a / 110 and b / 110; hint mask.
        """
        ...
