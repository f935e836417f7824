"""Image and video files: decoding, metadata, atomic writing, remuxing."""
