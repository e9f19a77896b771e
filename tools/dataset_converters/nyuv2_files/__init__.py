"""The files of NYUv2 as they are published: read, and written in miniature."""
