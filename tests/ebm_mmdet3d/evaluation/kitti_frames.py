"""KITTI annotations for tests: a car park without overlaps, and random scenes with everything."""

from __future__ import annotations

import numpy as np

CAR = (4.0, 1.5, 2.0)  # l, h, w


def annotations(names, **fields) -> dict[str, np.ndarray]:
    """A frame of cars 10 m apart, fully visible and 100 px high; any field can be replaced."""
    n = len(names)
    location = np.zeros((n, 3))
    location[:, 1], location[:, 2] = 1.7, 10.0 * np.arange(n)
    left = 200.0 * np.arange(n)
    frame = dict(
        name=np.array(names, dtype="<U16"),
        occluded=np.zeros(n),
        truncated=np.zeros(n),
        alpha=np.zeros(n),
        bbox=np.column_stack((left, np.zeros(n), left + 100, np.full(n, 100.0))),
        location=location,
        dimensions=np.tile(CAR, (n, 1)),
        rotation_y=np.zeros(n),
    )
    for name, value in fields.items():
        frame[name] = np.asarray(value, dtype=float)
    return frame


def detected(frame: dict, score, rows=slice(None), along=0.0, **fields) -> dict[str, np.ndarray]:
    """Detections of some objects of a frame, moved ``along`` metres in the direction of ``l``."""
    found = {key: value[rows].copy() for key, value in frame.items()}
    heading = found["rotation_y"]
    found["location"][:, 0] += along * np.cos(heading)
    found["location"][:, 2] -= along * np.sin(heading)
    found["score"] = np.broadcast_to(np.asarray(score, float), len(found["name"])).copy()
    for name, value in fields.items():
        found[name] = np.asarray(value)
    return found


def random_scenes(seed: int, num_frames: int = 40, max_objects: int = 8):
    """Ground truth and detections with every rule of the protocol at work."""
    rng = np.random.default_rng(seed)
    kinds = ["Car", "Van", "Pedestrian", "Person_sitting", "Cyclist", "DontCare", "Truck"]
    truth, found = [], []
    for k in range(num_frames):
        n = 0 if k % 9 == 4 else int(rng.integers(1, max_objects))
        frame = annotations(
            rng.choice(kinds, n, p=[0.45, 0.1, 0.15, 0.05, 0.1, 0.1, 0.05]),
            occluded=rng.integers(0, 4, n),
            truncated=rng.choice([0, 0, 0.1, 0.2, 0.6], n),
            alpha=rng.uniform(-3, 3, n),
            location=np.column_stack(
                (rng.uniform(-8, 8, n), rng.normal(1.7, 0.1, n), rng.uniform(5, 25, n))
            ),
            dimensions=np.array(CAR) * rng.uniform(0.8, 1.2, (n, 3)),
            rotation_y=rng.uniform(-4, 4, n),
        )
        corner = rng.uniform(0, 300, (n, 2))
        frame["bbox"] = np.hstack((corner, corner + rng.uniform(15, 120, (n, 2))))
        regions = frame["name"] == "DontCare"
        frame["location"][regions] = -1000
        frame["dimensions"][regions] = -1
        truth.append(frame)

        copies = np.repeat(np.flatnonzero(~regions), 2)
        copies = copies[rng.random(len(copies)) < 0.7]
        near = detected(frame, 0, copies)
        m, noise = len(copies), rng.choice([0.02, 0.06, 0.2], (len(copies), 1))
        near["location"] = near["location"] + noise * rng.normal(size=(m, 3))
        near["dimensions"] = near["dimensions"] * np.exp(0.3 * noise * rng.normal(size=(m, 3)))
        near["rotation_y"] = near["rotation_y"] + 0.3 * noise[:, 0] * rng.normal(size=m)
        near["bbox"] = near["bbox"] + 20 * noise * rng.normal(size=(m, 4))
        # Wrong classes, sitting persons and vans taken for the class next to them.
        near["name"] = np.where(near["name"] == "Van", "Car", near["name"]).astype("<U16")
        wrong = rng.random(m) < 0.1
        near["name"][wrong] = rng.choice(["Car", "Pedestrian", "Cyclist"], wrong.sum())
        # Few different scores, so that there are ties.
        near["score"] = np.round(rng.uniform(-0.1, 1, m), 1 if k % 2 else 4)
        found.append(near)
    return truth, found
