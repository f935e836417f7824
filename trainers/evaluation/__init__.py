"""Evaluation: settings, tasks, networks that score, tables and contact sheets."""
