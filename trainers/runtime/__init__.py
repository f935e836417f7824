"""Infrastructure of a training run: settings, processes, state, log, weight average, saves."""
