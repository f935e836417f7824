r"""Write the list of photos that a bundled network was trained on, with license and source of each.

    python benchmarks/photo_sources.py --photos shard-*.tar --index a.csv b.csv \
        --skip-licences research unstated --held-out 100 --sets photos/README.md \
        --out docs/photo-sources.csv

The index has the columns `key`, `set` and `licence`; `--sets` is a Markdown file with tables whose
first column is a set and whose last column is its source. Prints the SHA-256 of the sorted training
keys, one per line: `photo_list_sha256` in the metadata of the network.
"""

import csv
from pathlib import Path

import bench


def main() -> None:
    """Write the CSV file."""
    parser = bench.argument_parser(__doc__, json_report=False)
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--index", nargs="+", type=Path, required=True)
    parser.add_argument("--skip-licences", nargs="*", default=[])
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    from comfyui_colorist.trainers.data.photos import Photos, hold_out

    photos = Photos(options.photos, options.index, options.skip_licences)
    trained, held_out = hold_out(photos, options.held_out, options.seed)
    index: dict[str, dict[str, str]] = {}
    for path in options.index:
        with path.open(newline="", encoding="utf-8") as file:
            index |= {row["key"]: row for row in csv.DictReader(file)}
    sources = sources_of_sets(options.sets.read_text(encoding="utf-8"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["photo", "use", "licence", "source"])
        held_out_keys = set(held_out.keys)
        for key in sorted(photos.keys):
            use = "watched" if key in held_out_keys else "trained"
            row = index[key]
            table.writerow([key, use, row["licence"], sources.get(row["set"], "")])
    print(f"{len(trained)} training photos, {len(held_out)} held out; SHA-256 {trained.digest()}")


def sources_of_sets(text: str) -> dict[str, str]:
    """Return the last column of each table row by its first."""
    rows = (line.strip().strip("|").split("|") for line in text.splitlines() if "|" in line)
    return {row[0].strip(): row[-1].strip() for row in rows if len(row) > 3}


if __name__ == "__main__":
    main()
