"""Makes data that configs read; commands, and what they call. Not for import by the packages."""
