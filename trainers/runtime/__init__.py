"""A run of a trainer: settings, processes, state, log, averaged weights."""
