"""The study of image regression: tasks by methods by seeds, tables, and the demo's pictures."""
