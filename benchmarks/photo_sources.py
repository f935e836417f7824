"""Write the list of photos that a bundled network was trained on, with licence and source of each.

    python benchmarks/photo_sources.py --photos shard-*.tar --index a.csv b.csv \\
        --skip-licences research unstated --held-out 100 --sets photos/README.md \\
        --out docs/photo-sources.csv

The index has columns `key`, `set` and `licence`; `--sets` is a Markdown file with tables whose
first column is a set and whose last column is its source. Prints the SHA-256 of the keys that were
trained on, sorted, one a line: `photo_list_sha256` in the metadata of the network.
"""

import argparse
import csv
import runpy
from pathlib import Path

from large_photo import ROOT


def main() -> None:
    """Write the CSV file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--index", nargs="+", type=Path, required=True)
    parser.add_argument("--skip-licences", nargs="*", default=[])
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    from comfyui_colorist.trainers.data import photos as data

    photos = data.Photos(options.photos, options.index, options.skip_licences)
    trained, held_out = data.hold_out(photos, options.held_out, options.seed)
    facts = {}
    for path in options.index:
        with path.open(newline="", encoding="utf-8") as file:
            facts |= {row["key"]: row for row in csv.DictReader(file)}
    sources = sources_of_sets(options.sets.read_text(encoding="utf-8"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["photo", "use", "licence", "source"])
        watched = set(held_out.keys)
        for key in sorted(photos.keys):
            use = "watched" if key in watched else "trained"
            row = facts[key]
            table.writerow([key, use, row["licence"], sources.get(row["set"], "")])
    print(f"{len(trained)} trained on, {len(held_out)} held out; SHA-256 {trained.digest()}")


def sources_of_sets(text: str) -> dict[str, str]:
    """Return the last column of each table row by its first."""
    rows = (line.strip().strip("|").split("|") for line in text.splitlines() if "|" in line)
    return {row[0].strip(): row[-1].strip() for row in rows if len(row) > 3}


if __name__ == "__main__":
    main()
