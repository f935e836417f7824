"""Scores of coloured pictures and films: numbers alone, which train and measure alike."""
