"""What nodes, command line and trainers share: engines, hints, references, memories, films."""
