"""The climb of boxes on a GPU as one CUDA graph, for ``GradientAscentRefiner(cuda_graph=True)``.

    fused_climb       the whole, or None where the loop has to be used
    suitability.py    where that is
    graphs.py         CUDA graphs: recorded when first needed, a few kept for each head
    map_buffers.py    maps of any size, where a graph reads them
    plan.py           the launches and buffers that are recorded; they also run one by one
    kernels.py        what these launches do, beside pooling and products
    products.py       precisions of the products
    recorded_loop.py  the operations of the loop instead, where the kernels do not compute f (3D)

**It has not run on a GPU**, and is therefore off by default. What is tested is what would be
recorded, run launch by launch on a CPU, the kernels in Triton's interpreter: boxes are those of the
loop to 1e-5. The recording is not.
"""

from __future__ import annotations

from .climb import fused_climb
from .products import Precision, check_precision

__all__ = ["Precision", "check_precision", "fused_climb"]
