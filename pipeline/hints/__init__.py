"""Point hints: their JSON, what a network sees of them, their way through a film, suggestions."""
