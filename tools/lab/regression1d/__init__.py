"""The 1D regression studies: energy-based models of y given x, both of them numbers.

data         the data sets, and the truth behind them
network      the energy network, many models at once; fused and kernel.cpp make it fast
proposals    mixture density networks, likewise
methods      the training methods by name
training     one ensemble, from start to end
evaluation   divergence from the truth and likelihood, by quadrature
runs, study  what is run, where it is kept
report, figures, pictures, published    what comes out, and what the papers have
"""

from .runs import StudyError
from .study import run_study

__all__ = ["StudyError", "run_study"]
