"""Folds of an audit: as many boxes in each, and a remedy that works where there are too few."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_mmdet.apis.auditing.annotations import AnnotatedImage
from ebm_mmdet.apis.auditing.folds import assign_folds
from ebm_mmdet.apis.image_index import ImageFile


def images(*numbers):
    """Images with so many boxes."""
    none = np.zeros((0, 4))
    return [
        AnnotatedImage(ImageFile(i, "a", None), np.arange(n), np.ones((n, 4)), np.zeros(n), none)
        for i, n in enumerate(numbers)
    ]


@pytest.mark.parametrize(
    ("numbers", "folds", "remedy"),
    [
        ((3,), 5, "1 image with boxes .* 5 folds; give --folds 0, where"),
        ((3, 0, 0), 2, "1 image with boxes .* 2 folds; give --folds 0, where"),
        ((3, 4), 5, "2 images with boxes .* give --folds 2 or fewer, or --folds 0"),
    ],
)
def test_too_few_images_for_the_folds(numbers, folds, remedy):
    with pytest.raises(ValueError, match=remedy):
        assign_folds(images(*numbers), folds, 0)
    if len(numbers) == 2:
        assert sorted(assign_folds(images(*numbers), 2, 0)) == [[0], [1]]
