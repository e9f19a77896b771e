"""The 1D regression studies: energy-based models of y given x, both of them numbers.

data         the data sets and their true densities
network      the energy network, many models at once; fused and kernel.cpp make it fast
proposals    mixture density networks, many models at once
methods      the training methods by name
training     one ensemble, from start to end
evaluation   divergence from the truth and likelihood, by quadrature
runs, study  the runs and their folders
report, figures, pictures, published    tables and figures, and the papers' numbers
"""

from .runs import StudyError
from .study import run_study

__all__ = ["StudyError", "run_study"]
