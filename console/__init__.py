"""Terminal output, errors and exit codes shared by the commands and the trainers."""
