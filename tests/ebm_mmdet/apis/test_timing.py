"""Candidates are timed in turns, each on its own copy of every input."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ebm_mmdet.apis.timing import median_milliseconds, take_turns, timed


def test_turns_and_copies():
    order = []

    def spoil(name):
        def run(value):
            order.append((name, *value))
            value.clear()

        return run

    seconds = take_turns([spoil("a"), spoil("b")], [[1], [2], [3]])
    assert seconds.shape == (2, 3)
    assert order == [(name, number) for number in (1, 2, 3) for name in "ab"]


def test_seconds_are_those_of_the_call():
    result, seconds = timed(lambda pause: time.sleep(pause) or pause, 0.05)
    assert result == 0.05
    assert 0.05 <= seconds < 5
    slow, fast = median_milliseconds([lambda _: time.sleep(0.05), lambda _: None], range(3))
    assert slow >= 50
    assert fast < slow


def test_the_copy_does_not_count():
    class Slow:
        def __deepcopy__(self, memo):
            time.sleep(0.3)
            return self

    assert take_turns([lambda value: None], [Slow()])[0, 0] < 0.25


def test_no_input_gives_no_time():
    assert take_turns([print], []).shape == (1, 0)
    with pytest.warns(RuntimeWarning):
        assert np.isnan(median_milliseconds([print], [])[0])
