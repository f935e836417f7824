"""The commands, a file for each; they need the standard library alone until they run."""
