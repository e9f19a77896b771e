"""The demos: training and refinement from scratch on two CPU cores, in images and point clouds.

One runner (`run.run_demo`) trains, measures and draws; a `world.World` has the differences:
`shapes`, which does not need mmdet3d, and `lidar`, which is imported only when it is used.
"""
