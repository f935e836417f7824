"""Evaluation: settings, tasks, scoring networks, tables and contact sheets."""
