"""Colorizers, hints, references, color memories and videos: what all front ends share."""
