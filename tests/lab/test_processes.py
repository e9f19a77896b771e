"""Runs in processes of their own."""

import operator

import pytest

from lab.processes import cores, in_processes


def test_all_results_come_back_and_an_error_ends_it():
    assert cores() >= 1
    assert sorted(in_processes(pow, [(2, 3), (3, 2), (5, 1)], 2)) == [5, 8, 9]
    with pytest.raises(ZeroDivisionError):
        list(in_processes(operator.truediv, [(1, 0)], 1))
