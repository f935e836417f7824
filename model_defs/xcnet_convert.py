"""Published XCNet checkpoints: their names and sizes, and the way to ours."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .layers import rename
from .xcnet_config import Config

_RENAME = [  # published name -> ours; first match wins
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
DROPPED = {  # published name -> why it is not needed
    ".flatten_index": "the same whole numbers for every line of this length",
}


_ATT3 = ("att3.module.1.", "att3.module.0.")  # one module under two names; files may keep but one


def detect(keys: set[str]) -> bool:
    """True for the key names of a published XCNet checkpoint."""
    return "head1.conv2.bias" in keys and any(
        f"{module}rows.in_proj_weight" in keys for module in _ATT3
    )


def config_from(state: Mapping[str, Tensor]) -> Config:
    """Read every size from a published checkpoint's shapes.

    Without positions the number of heads cannot be seen; it is 8.
    """
    width = state["proj1.proj_tgt.weight"].shape[0]
    relative = next((t for k, t in state.items() if k.endswith(".rows.relative")), None)
    heads = 8 if relative is None else 2 * width // relative.shape[0]
    return Config(
        width=width,
        heads=heads,
        head_width=state["head1.conv1.weight"].shape[0],
        positions=relative is not None,
        # The program divides by the root of the values' width, and with positions not at all.
        scale=1.0 if relative is not None else (width / heads) ** -0.5,
        compat="xcnet",
    )


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> ours, in a new dict; `state` has canonical keys."""
    converted = {}
    for key, tensor in state.items():
        # The program loads .module.0. first and .module.1. over it.
        twin = key.replace(".module.0.", ".module.1.")
        if key.endswith(tuple(DROPPED)) or (twin != key and twin in state):
            continue
        name = rename(key, _RENAME)
        if name.endswith(".relative"):
            # The program counts query minus key for q and v, key minus query for k: ours is that.
            d = tensor.shape[0] // 4
            q, k, v = tensor.split([d, d, 2 * d])
            tensor = torch.cat([q.flip(1), k, v.flip(1)]).T.contiguous()
        converted[name] = tensor
    return converted
