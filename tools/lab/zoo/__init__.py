"""One config of each family of mmdet's model zoo, with an energy head: what `tools/zoo.py` runs."""
