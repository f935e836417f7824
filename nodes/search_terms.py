"""Words by which users search for nodes, where the display name does not contain them."""

COLORING = [
    "colorize",
    "colourise",
    "colorise",
    "colourize",
    "colorization",
    "colourisation",
    "black and white",
    "b&w",
    "grayscale",
    "greyscale",
]
FIRST = ["ddcolor", "deoldify", "colour", "color photo", "grayscale to color"]
"""Words that lead to the node to begin with, before all others."""
RESTORING = ["old photo", "restore", "restoration"]
VIDEO = ["film", "movie", "video"]
