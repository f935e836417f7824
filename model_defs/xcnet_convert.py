"""Published XCNet checkpoints: detection, sizes, and conversion to our tensor names."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .layers import rename_key
from .xcnet_config import Config

PUBLISHED_NAMES = [  # (pattern of the published name, our name); the first match wins
    (r"^features\.to_relu_\d_\d\.(\d+)\.", r"backbone.features.\1."),
    (r"^proj6\.proj_tgt\.", "project_target.B."),
    (r"^proj(\d)\.proj_tgt\.", r"project_target.\1."),
    (r"^proj(\d)\.proj_ref\.", r"project_reference.\1."),
    (r"^att(\d)\.module\.[01]\.bn_tgt\.", r"attention.\1.0.target_norm."),
    (r"^att(\d)\.module\.[01]\.bn_ref\.", r"attention.\1.0.reference_norm."),
    (r"^att(\d)\.module\.[01]\.rows\.in_proj_", r"attention.\1.0.first.project_in."),
    (r"^att(\d)\.module\.[01]\.cols\.in_proj_", r"attention.\1.0.second.project_in."),
    (r"^att(\d)\.module\.[01]\.rows\.out_proj\.", r"attention.\1.0.first.project_out."),
    (r"^att(\d)\.module\.[01]\.cols\.out_proj\.", r"attention.\1.0.second.project_out."),
    (r"^att(\d)\.module\.[01]\.rows\.", r"attention.\1.0.first."),
    (r"^att(\d)\.module\.[01]\.cols\.", r"attention.\1.0.second."),
    (r"^dec(\d)\.conv1\.", r"decoder.\1.mix."),
    (r"^dec(\d)\.conv2\.", r"decoder.\1.refine."),
    (r"^head(\d)\.conv1\.", r"heads.\1.0."),
    (r"^head(\d)\.conv2\.", r"heads.\1.2."),
]
DROPPED = {  # suffix of a published name -> reason
    ".flatten_index": "the same integers for every line of this length",
}
# One module under two names; files that store shared tensors once have either.
_ATTENTION_3 = ("att3.module.1.", "att3.module.0.")


def detect(keys: set[str]) -> bool:
    """Return True for the tensor names of a published XCNet checkpoint."""
    return "head1.conv2.bias" in keys and any(
        f"{module}rows.in_proj_weight" in keys for module in _ATTENTION_3
    )


def config_from(state: Mapping[str, Tensor]) -> Config:
    """Read every size from the shapes of a published checkpoint.

    Without positions, no shape depends on the number of heads; it is 8.
    """
    width = state["proj1.proj_tgt.weight"].shape[0]
    relative = next((t for k, t in state.items() if k.endswith(".rows.relative")), None)
    heads = 8 if relative is None else 2 * width // relative.shape[0]
    return Config(
        width=width,
        heads=heads,
        head_width=state["head1.conv1.weight"].shape[0],
        positions=relative is not None,
        # The program divides the logits by the root of the values' width, but only without
        # positions.
        scale=1.0 if relative is not None else (width / heads) ** -0.5,
        compat="xcnet",
    )


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a new dict with published names replaced by ours; `state` has canonical keys."""
    converted = {}
    for key, tensor in state.items():
        # The program loads .module.0. first and overwrites it with .module.1.
        twin = key.replace(".module.0.", ".module.1.")
        if key.endswith(tuple(DROPPED)) or (twin != key and twin in state):
            continue
        name = rename_key(key, PUBLISHED_NAMES)
        if name.endswith(".relative"):
            # The program indexes by query minus key for q and v, by key minus query for k; we
            # index all three by key minus query.
            d = tensor.shape[0] // 4
            q, k, v = tensor.split([d, d, 2 * d])
            tensor = torch.cat([q.flip(1), k, v.flip(1)]).T.contiguous()
        converted[name] = tensor
    return converted
