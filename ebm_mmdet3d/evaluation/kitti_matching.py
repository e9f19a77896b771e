"""The loops of KITTI's evaluation: matching of detections and objects at given scores.

Objects of all frames are numbered consecutively, and so are detections. A pair is an object and a
detection of the same frame that overlap more than the threshold and of which none is of another
class; pairs are sorted by object, then by detection, and objects are matched in that order.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["NUM_POSITIONS", "matches", "score_thresholds", "scores_of_hits"]

NUM_POSITIONS = 41


@numba.njit
def score_thresholds(hits, num_objects):
    """The scores, among those of the hits, nearest to recall 0, 1/40, ..., 1; descending."""
    cuts = np.empty(NUM_POSITIONS)
    count, target = 0, 0.0
    for k in range(len(hits)):
        last = k + 1 == len(hits)
        below, above = (k + 1) / num_objects, (k + 2) / num_objects
        # The next hit would be nearer to the target.
        if not last and above - target < target - below:
            continue
        if count < NUM_POSITIONS:
            cuts[count] = hits[k]
            count += 1
        target += 1 / (NUM_POSITIONS - 1.0)
    return cuts[:count]


@numba.njit
def scores_of_hits(pair_object, pair_detection, objects_neutral, detections_neutral, score):
    """Scores at which objects are found if each takes the free detection of highest score."""
    taken = np.zeros(len(score), np.bool_)
    hits = np.empty(len(pair_object))
    count, k = 0, 0
    while k < len(pair_object):
        i, best = pair_object[k], -1
        while k < len(pair_object) and pair_object[k] == i:
            j = pair_detection[k]
            if not taken[j] and (best < 0 or score[j] > score[best]):
                best = j
            k += 1
        if best >= 0:
            taken[best] = True
            if not (objects_neutral[i] or detections_neutral[best]):
                hits[count] = score[best]
                count += 1
    return hits[:count]


@numba.njit
def matches(
    pair_object,
    pair_detection,
    overlap,
    objects_neutral,
    detections_neutral,
    score,
    absorbed,
    cuts,
):
    """Numbers of matches if only scores at or above each cut are used; (cuts, 4) int64.

    Every object takes the detection that it overlaps most, a neutral one only if there is no other.
    Columns: hits; objects matched to a neutral detection, neither found nor missed; detections that
    count and are matched to any object; those of them that a DontCare region would absorb.
    """
    counts = np.zeros((len(cuts), 4), np.int64)
    for c in range(len(cuts)):
        taken = np.zeros(len(score), np.bool_)
        k = 0
        while k < len(pair_object):
            i, best, neutral, largest = pair_object[k], -1, -1, 0.0
            while k < len(pair_object) and pair_object[k] == i:
                j = pair_detection[k]
                if not taken[j] and score[j] >= cuts[c]:
                    if detections_neutral[j]:
                        neutral = j if neutral < 0 else neutral
                    elif overlap[k] > largest:
                        best, largest = j, overlap[k]
                k += 1
            if best >= 0:
                taken[best] = True
                counts[c, 0] += not objects_neutral[i]
                counts[c, 2] += 1
                counts[c, 3] += absorbed[best]
            elif neutral >= 0:
                taken[neutral] = True
                counts[c, 1] += not objects_neutral[i]
    return counts
