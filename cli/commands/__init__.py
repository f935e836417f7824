"""The commands, one per file. They import only the standard library until they run."""
