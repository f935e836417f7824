"""Cut the excerpt that the tests carry out of the full golden outputs.

    python tests/golden/make.py REFERENCE_FOLDER

The goldens are outputs of the official code (piddnad/DDColor at 2adb63f, jixiaozhong/ColorFormer at
0d3ae85; torch 2.13.0, CPU, one thread) for weights and inputs made by fill.py; every eighth value
of the picture is kept.
"""

import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def main(reference: Path) -> None:
    """Write ddcolor.safetensors and colorformer.safetensors beside this script."""
    excerpt = {}
    for name in ("ddcolor_tiny", "ddcolor_large"):
        output = load_file(reference / "golden" / f"{name}_256.safetensors")["output_ab"]
        excerpt[name] = output[:, :, ::8, 4::8].contiguous()
    e2e = load_file(reference / "golden" / "e2e_ddcolor_tiny_160x224.safetensors")
    excerpt["published_picture"] = e2e["exact_rgb"]
    save_file(excerpt, Path(__file__).with_name("ddcolor.safetensors"))
    golden = load_file(reference / "golden" / "colorformer_256.safetensors")
    e2e = load_file(reference / "golden" / "e2e_colorformer_160x224.safetensors")
    excerpt = {
        "colorformer": golden["output_ab"][:, :, ::8, 4::8].contiguous(),
        "lambda": golden["act.encoder.lambda"],
        "published_picture": e2e["output_rgb"][::2, ::2].contiguous(),
    }
    save_file(excerpt, Path(__file__).with_name("colorformer.safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
