"""Words by which users look for nodes, where a node's own name does not have them."""

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
RESTORING = ["old photo", "restore", "restoration"]
FILM = ["film", "movie", "video"]
