"""The demos: from nothing to refined boxes on two CPU cores, in images and in point clouds.

One runner (`run.run_demo`) trains, measures and draws; a `world.World` says what differs: `shapes`,
which needs no mmdet3d, and `lidar`. Nothing here imports `lidar` by itself.
"""
