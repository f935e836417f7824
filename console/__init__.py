"""What commands and trainers say and refuse in a terminal."""
