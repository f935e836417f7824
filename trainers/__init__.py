"""Standalone training scripts, each runnable by path, by `colorist train`, or as a module."""
