"""Tests of every pooling operator: one abstract tester, and one subclass per operator.

Here are its values and derivatives; `precision_tester.py`, `property_tester.py` and
`backend_tester.py` go on.

`pool(features, boxes, images)` is the operator under test: boxes (N, D) without an image index,
images (N,) integers. `cases` maps an argument of a test to the values it takes for this operator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from surroundings import HAS_CPP
from tolerances import TOLERANCE

EXACT = TOLERANCE[torch.float64]
Inputs = tuple[Tensor, Tensor, Tensor]


class OperatorTester(ABC):
    """The tests that both operators share. A subclass describes its operator.

    Attributes:
        name: name of the operator, of its package and in `torch.ops.ebm_ops`.
        gradients: endings of the names of its gradient operators: by the map, by the boxes.
        reference: module with its definition in PyTorch.
        size: bins of a usual result.
        third_columns: columns of the boxes by which second and third derivatives are not zero.
        cases: values of each argument of a test; `variant` are options of `pool`.
        property_variants: options of `pool` for the properties that hold for random boxes.
        odd_boxes: name -> box in cells, on a map of 9 x 11: they pool to zero and have no gradient.
        good_box: a box in cells on that map.
        odd_index: pattern of the message about the image of box 4.
        has_second_derivatives: whether the kernels compute these, so that `derivatives` has them.
        fast_gradcheck: layouts for which derivatives are checked along one random direction.
        batch_tolerance: how far a box's values may depend on the other boxes.
    """

    name: ClassVar[str]
    gradients: ClassVar[tuple[str, str]]
    reference: ClassVar[ModuleType]
    size: ClassVar[tuple[int, int]]
    third_columns: ClassVar[tuple[int, int]]
    cases: ClassVar[Mapping[str, Iterable[Any]]]
    odd_boxes: ClassVar[Mapping[str, tuple[float, ...]]]
    odd_index: ClassVar[str]
    good_box: ClassVar[tuple[float, ...]]
    property_variants: ClassVar[Sequence[dict]] = ({},)
    has_second_derivatives: ClassVar[bool] = False
    fast_gradcheck: ClassVar[tuple[str, ...]] = ()
    batch_tolerance: ClassVar[float] = 0

    @abstractmethod
    def problem(self, seed: int, channels=3, count=6, dtype=torch.float64) -> Inputs:
        """Two maps, boxes that partly lie outside them, and the map of each box."""

    @abstractmethod
    def small_problem(self, seed: int, size: tuple[int, int], variant: dict) -> Inputs:
        """Few pixels and boxes for numerical derivatives, no sample or bin edge near a kink."""

    @abstractmethod
    def pool(self, features, boxes, images, size=None, backend="auto", **variant) -> Tensor:
        """The operator on the maps of `problem`."""

    @abstractmethod
    def pool_cells(self, features, boxes, size=None, backend="auto", **variant) -> Tensor:
        """The operator with boxes in cells, all on the first map."""

    @abstractmethod
    def boxes_in_cells(self, seed: int, count: int = 4) -> Tensor:
        """Float64 boxes of all sizes on a map of 9 x 11, some leaving it a little."""

    @abstractmethod
    def moved(self, boxes: Tensor, dx: float, dy: float) -> Tensor:
        """Boxes in cells, moved."""

    @abstractmethod
    def module(self, size: tuple[int, int]) -> tuple[nn.Module, str]:
        """The module equivalent to `pool`, and a part of its printed form."""

    @abstractmethod
    def call_module(self, module: nn.Module, inputs: Inputs) -> Tensor:
        """Call it on a problem."""

    @abstractmethod
    def exact_values(self, inputs: Inputs, **variant) -> Tensor:
        """The result of `pool`, in float64 and by an independent computation."""

    @abstractmethod
    def opcheck_calls(self, dtype: torch.dtype, case: Any) -> Iterable[tuple[Any, tuple]]:
        """Registered operators with arguments that :func:`torch.library.opcheck` gets."""

    @abstractmethod
    def closed_forms(self, inputs: Inputs, grad: Tensor, tangent: Tensor) -> list[Tensor]:
        """Derivatives by the reference without autograd, in the order of `derivatives`."""

    @abstractmethod
    def problem_of_backends(self, seed: int, channels: int, dtype: torch.dtype, count=12) -> Inputs:
        """A larger problem without samples close to kinks, where rounding would decide."""

    def derivatives(self, inputs: Inputs, grad: Tensor, tangent: Tensor, backend: str, **variant):
        """Values, first derivatives, and second ones where kernels compute them."""
        features, boxes, g = (t.detach().requires_grad_() for t in (*inputs[:2], grad))
        pooled = self.pool(features, boxes, inputs[2], backend=backend, **variant)
        first = torch.autograd.grad(pooled, (features, boxes), g, create_graph=True)
        if not self.has_second_derivatives:
            return [pooled, *first]
        return [pooled, *first, *torch.autograd.grad(first[1], (g, features, boxes), tangent)]

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed"])
    def test_gradcheck(self, backend, seed, layout, variant):
        size = (3, 2)
        features, boxes, images = self.small_problem(seed, size, variant)
        if layout == "channels_last":
            features = features.contiguous(memory_format=torch.channels_last)
        elif layout == "strided":
            features = features.repeat_interleave(2, 1).repeat_interleave(2, 3)[:, ::2, :, ::2]
        elif layout == "transposed":
            features, boxes = (t.mT.contiguous().mT for t in (features, boxes))
        assert torch.autograd.gradcheck(
            lambda f, b: self.pool(f, b, images, size, backend, **variant),
            (features.detach().requires_grad_(), boxes.detach().requires_grad_()),
            fast_mode=layout in self.fast_gradcheck,
        )

    def test_gradgradcheck(self, backend, gradgrad_seed, variant):
        """On every backend: higher derivatives of the kernels are those of the reference."""
        size = (2, 2)
        features, boxes, images = self.small_problem(gradgrad_seed, size, variant)
        assert torch.autograd.gradgradcheck(
            lambda f, b: self.pool(f, b, images, size, backend, **variant),
            (features.detach().requires_grad_(), boxes.detach().requires_grad_()),
        )

    def test_higher_derivatives_agree(self):
        """Score matching trains through second derivatives; no order may be cut off silently."""
        features, boxes, images = self.problem(3, channels=2, count=2)
        second, third = self.third_columns
        found = []
        for backend in ("auto", "reference"):
            w = torch.linspace(-1, 1, 2 * 2 * 2, dtype=torch.float64).requires_grad_()
            f, b = features.clone().requires_grad_(), boxes.clone().requires_grad_()
            pooled = self.pool(f, b, images, (2, 2), backend)
            energy = (pooled.flatten(1).tanh() @ w).sum()
            (slope,) = torch.autograd.grad(energy, b, create_graph=True)
            (curvature,) = torch.autograd.grad(slope[:, second].sum(), b, create_graph=True)
            thirds = torch.autograd.grad(curvature[:, third].sum(), (w, f, b), create_graph=True)
            found.append([*thirds, *torch.autograd.grad(thirds[2].square().sum(), (w, f, b))])
        for a, b in zip(*found):
            assert a.abs().max() > 0
            torch.testing.assert_close(a, b, **EXACT)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_opcheck(self, dtype, opcheck_case):
        for operator, arguments in self.opcheck_calls(dtype, opcheck_case):
            torch.library.opcheck(operator, arguments)

    @pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
    def test_compiles_as_one_graph(self, compiler):
        features, boxes, images = self.problem(2, dtype=torch.float32)

        def slopes(f, b, i):
            return (self.pool(f, b, i) * 2).square().sum((1, 2, 3))

        compiled = torch.compile(slopes, fullgraph=True, backend=compiler, dynamic=True)
        for count in (6, 4):
            f, b = features.clone().requires_grad_(), boxes[:count].clone().requires_grad_()
            expected, found = slopes(f, b, images[:count]), compiled(f, b, images[:count])
            torch.testing.assert_close(found, expected, **TOLERANCE[torch.float32])
            by_found, by_expected = (
                torch.autograd.grad(t.sum(), (f, b)) for t in (found, expected)
            )
            for x, y in zip(by_found, by_expected):
                torch.testing.assert_close(x, y, **TOLERANCE[torch.float32])

    @pytest.mark.parametrize("wanted", [0, 1], ids=["map", "boxes"])
    def test_only_the_gradient_asked_for_is_computed(self, monkeypatch, wanted):
        inputs = self.problem(0)
        inputs[wanted].requires_grad_()
        called, ops = [], torch.ops.ebm_ops
        for ending in self.gradients:
            name = f"{self.name}_grad_{ending}"
            original = getattr(ops, name)
            monkeypatch.setattr(
                ops, name, lambda *a, _f=original, _n=name: called.append(_n) or _f(*a)
            )
        self.pool(*inputs).sum().backward()
        assert called == [f"{self.name}_grad_{self.gradients[wanted]}"]

    def test_channels_last_input_is_not_copied(self):
        features, boxes, images = self.problem(0)
        features = features.contiguous(memory_format=torch.channels_last)
        pooled = self.pool(features, boxes.requires_grad_(), images)
        assert any(
            saved.data_ptr() == features.data_ptr()
            for saved in pooled.grad_fn.saved_tensors
            if saved is not None
        )

    def test_module_equals_function(self):
        inputs = self.problem(0)
        module, printed = self.module((3, 2))
        assert torch.equal(self.call_module(module, inputs), self.pool(*inputs, (3, 2)))
        assert printed in repr(module)

    def test_bad_batch_index_is_named(self, backend, bad_image):
        features, boxes, images = self.problem(0)
        images = images.to(torch.tensor(bad_image).dtype)
        images[4] = bad_image
        got = f"{bad_image:g}" if isinstance(bad_image, float) else str(bad_image)
        with pytest.raises(ValueError, match=rf"{self.odd_index}.*0\.\.1.*got {got}"):
            self.pool(features, boxes, images, backend=backend)

    def test_bad_backends_are_named(self):
        inputs = self.problem(0)
        with pytest.raises(ValueError, match="backend must be"):
            self.pool(*inputs, backend="cuda")
        with pytest.raises(RuntimeError, match="serves cuda tensors, got cpu"):
            self.pool(*inputs, backend="triton")

    @pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("channels", [1, 7, 16, 17, 40, 64, 96, 150])
    def test_backends_agree(self, channels, dtype):
        """Kernels against the reference's autograd and its closed forms."""
        inputs = self.problem_of_backends(channels, channels, dtype)
        count, columns = inputs[1].shape
        grad = torch.randn(count, channels, *self.size, dtype=dtype)
        tangent = torch.randn(count, columns, dtype=dtype)
        found = self.derivatives(inputs, grad, tangent, "cpp")
        for other in (
            self.derivatives(inputs, grad, tangent, "reference"),
            self.closed_forms(inputs, grad, tangent),  # what serves where there is no compiler
        ):
            for a, b in zip(found, other, strict=True):
                # Sums of many terms: the tolerance counts against the largest of them.
                scale = float(b.detach().abs().max().clamp(min=1))
                torch.testing.assert_close(a / scale, b / scale, **TOLERANCE[dtype])
