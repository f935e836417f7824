"""Films: colour over their frames."""
