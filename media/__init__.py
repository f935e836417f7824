"""Picture and video files: read with what must survive, written whole or not at all."""
