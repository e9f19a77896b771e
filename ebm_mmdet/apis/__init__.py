"""Programming interfaces behind the command line."""
