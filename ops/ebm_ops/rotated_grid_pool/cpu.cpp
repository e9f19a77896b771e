// Pooling on rotated grids for CPU tensors: the torch side of kernel.h.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <optional>

#include "kernel.h"

namespace ebm_ops {
namespace rotated_grid_pool {
namespace {

// The arguments that every operator shares, checked and contiguous.
struct Arguments {
  at::Tensor boxes, images, tangent;
  int64_t samples_per_bin;
  double x0, y0, cell, offset;

  Arguments(const at::Tensor& boxes_, const at::Tensor& images_,
            const std::optional<at::Tensor>& tangent_, int64_t samples, double x, double y,
            double cell_size, double pixel_offset)
      : boxes(boxes_.contiguous()), images(images_.contiguous()), samples_per_bin(samples), x0(x),
        y0(y), cell(cell_size), offset(pixel_offset) {
    TORCH_CHECK_VALUE(boxes.dim() == 2 && boxes.size(1) == 5, "boxes must have shape (N, 5), got ",
                      boxes.sizes());
    TORCH_CHECK_VALUE(images.dim() == 1 && images.size(0) == boxes.size(0),
                      "batch_index must have shape (N,) = (", boxes.size(0), ",), got ",
                      images.sizes());
    TORCH_CHECK_TYPE(images.scalar_type() == at::kLong, "batch_index must be int64, got ",
                     images.scalar_type());
    TORCH_CHECK_VALUE(samples >= 0, "samples_per_bin must not be negative, got ", samples);
    if (tangent_) {
      TORCH_CHECK_VALUE(tangent_->sizes() == boxes.sizes(), "tangent must have shape ",
                        boxes.sizes(), ", got ", tangent_->sizes());
      check_dtype(*tangent_, "tangent");
      tangent = tangent_->contiguous();
    }
  }

  void check_dtype(const at::Tensor& values, const char* name) const {
    TORCH_CHECK_TYPE(values.scalar_type() == boxes.scalar_type(), name, " (", values.scalar_type(),
                     ") and boxes (", boxes.scalar_type(), ") must have the same dtype");
  }

  void check_values(const at::Tensor& values, const char* name) const {
    TORCH_CHECK_VALUE(values.dim() == 4, name, " must have 4 dimensions, got ", values.dim());
    check_dtype(values, name);
  }

  void check_grad(const at::Tensor& grad) const {
    check_values(grad, "grad");
    TORCH_CHECK_VALUE(grad.size(0) == boxes.size(0), "grad and boxes must have the same length, ",
                      "got ", grad.size(0), " and ", boxes.size(0));
  }

  template <typename T>
  Problem<T> problem(const T* bev, int64_t batch, int64_t channels, int64_t height, int64_t width,
                     int64_t rows, int64_t columns) const {
    const auto* index = images.const_data_ptr<int64_t>();
    for (int64_t n = 0; n < boxes.size(0); ++n) {
      TORCH_CHECK_VALUE(index[n] >= 0 && index[n] < batch, "batch_index[", n, "] must be in 0..",
                        batch - 1, " for a map of batch size ", batch, ", got ", index[n]);
    }
    return {bev, boxes.const_data_ptr<T>(), index,
            tangent.defined() ? tangent.const_data_ptr<T>() : nullptr, boxes.size(0), batch,
            channels, height, width, rows, columns, samples_per_bin, x0, y0, cell, offset};
  }
};

at::Tensor forward(const at::Tensor& bev, const at::Tensor& boxes, const at::Tensor& batch_index,
                   const std::optional<at::Tensor>& tangent, int64_t rows, int64_t columns,
                   int64_t samples_per_bin, double x0, double y0, double cell_size,
                   double pixel_offset) {
  const Arguments given(boxes, batch_index, tangent, samples_per_bin, x0, y0, cell_size,
                        pixel_offset);
  given.check_values(bev, "bev");
  TORCH_CHECK_VALUE(rows >= 1 && columns >= 1, "grid_size must be positive, got (", rows, ", ",
                    columns, ")");
  const auto map = bev.contiguous(at::MemoryFormat::ChannelsLast);
  auto pooled = at::empty({boxes.size(0), map.size(1), rows, columns}, map.options(),
                          at::MemoryFormat::Contiguous);
  AT_DISPATCH_FLOATING_TYPES(map.scalar_type(), "rotated_grid_pool", [&] {
    const auto pr = given.problem(map.const_data_ptr<scalar_t>(), map.size(0), map.size(1),
                                  map.size(2), map.size(3), rows, columns);
    const auto& k = best_kernels<scalar_t>();
    auto* out = pooled.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, pr.num_boxes, 1,
                     [&](int64_t begin, int64_t end) { k.forward(pr, out, begin, end); });
  });
  return pooled;
}

at::Tensor grad_boxes(const at::Tensor& grad_, const at::Tensor& bev, const at::Tensor& boxes,
                      const at::Tensor& batch_index, const std::optional<at::Tensor>& tangent,
                      int64_t samples_per_bin, double x0, double y0, double cell_size,
                      double pixel_offset) {
  const Arguments given(boxes, batch_index, tangent, samples_per_bin, x0, y0, cell_size,
                        pixel_offset);
  given.check_values(bev, "bev");
  given.check_grad(grad_);
  TORCH_CHECK_VALUE(grad_.size(1) == bev.size(1), "grad must have shape (N, C, rows, columns), got ",
                    grad_.sizes());
  const auto map = bev.contiguous(at::MemoryFormat::ChannelsLast);
  const auto grad = grad_.contiguous();
  auto result = at::empty(boxes.sizes(), given.boxes.options(), at::MemoryFormat::Contiguous);
  AT_DISPATCH_FLOATING_TYPES(map.scalar_type(), "rotated_grid_pool_grad_boxes", [&] {
    const auto pr = given.problem(map.const_data_ptr<scalar_t>(), map.size(0), map.size(1),
                                  map.size(2), map.size(3), grad.size(2), grad.size(3));
    const auto& k = best_kernels<scalar_t>();
    const auto* g = grad.const_data_ptr<scalar_t>();
    auto* out = result.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, pr.num_boxes, 1,
                     [&](int64_t begin, int64_t end) { k.grad_boxes(pr, g, out, begin, end); });
  });
  return result;
}

at::Tensor grad_bev(const at::Tensor& grad_, const at::Tensor& boxes,
                    const at::Tensor& batch_index, const std::optional<at::Tensor>& tangent,
                    int64_t batch, int64_t height, int64_t width, int64_t samples_per_bin,
                    double x0, double y0, double cell_size, double pixel_offset) {
  const Arguments given(boxes, batch_index, tangent, samples_per_bin, x0, y0, cell_size,
                        pixel_offset);
  given.check_grad(grad_);
  const auto grad = grad_.contiguous();
  auto result = at::empty({batch, grad.size(1), height, width}, grad.options(),
                          at::MemoryFormat::ChannelsLast)
                    .zero_();
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "rotated_grid_pool_grad_bev", [&] {
    const auto pr = given.problem<scalar_t>(nullptr, batch, grad.size(1), height, width,
                                            grad.size(2), grad.size(3));
    const auto& k = best_kernels<scalar_t>();
    const int64_t blocks = batch * k.blocks(pr.channels);
    if (blocks == 0 || height == 0) return;
    // Row bands only if images and channels are too few for the threads. Each element is summed
    // over the boxes in their order for any bands, so the bits do not depend on the bands.
    const int64_t bands = std::clamp<int64_t>((2 * at::get_num_threads() - 1) / blocks, 1, height);
    const auto* g = grad.const_data_ptr<scalar_t>();
    auto* out = result.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, blocks * bands, 1, [&](int64_t begin, int64_t end) {
      k.grad_bev(pr, g, out, bands, begin, end);
    });
  });
  return result;
}

}  // namespace

// The schemas live in operators.py, since they exist without this extension too.
TORCH_LIBRARY_IMPL(ebm_ops, CPU, m) {
  m.impl("rotated_grid_pool", &forward);
  m.impl("rotated_grid_pool_grad_boxes", &grad_boxes);
  m.impl("rotated_grid_pool_grad_bev", &grad_bev);
}

}  // namespace rotated_grid_pool
}  // namespace ebm_ops
