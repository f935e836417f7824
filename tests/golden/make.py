"""Extract the golden outputs that the tests use from the full ones.

    python tests/golden/make.py REFERENCE_FOLDER

Golden outputs are those of the official code (piddnad/DDColor at 2adb63f, jixiaozhong/ColorFormer
at 0d3ae85, bbc/xcnet at 357d733; torch 2.13.0, CPU, one thread) for weights and inputs from
fill.py. Every eighth row and column is kept. xcnet.keys.json describes both XCNet networks: the one
without positions lacks the tensors `relative` and `flatten_index`.
"""

import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def main(reference: Path) -> None:
    """Write {ddcolor,colorformer,exemplar}.safetensors to this folder."""
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
    # The image before quantization to bytes; the reference keeps every second row and column.
    e2e = load_file(reference / "golden" / "e2e_xcnet_224x224.safetensors")
    excerpt = {"published_picture": e2e["output_float_rgb"][::4, ::4].contiguous()}
    for name in ("xcnet", "xcnet_no_pos"):
        golden = load_file(reference / "golden" / f"{name}_224.safetensors")
        for scale in ("pred1", "pred2", "pred3", "pred4"):
            excerpt[f"{name}.{scale}"] = golden[scale][:, :, ::8, 4::8].contiguous()
    save_file(excerpt, Path(__file__).with_name("exemplar.safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
