// Precise RoI pooling for CPU tensors: the torch side of kernel.h.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "kernel.h"

namespace ebm_ops {
namespace prroi_pool {
namespace {

void check_inputs(const at::Tensor& values, const at::Tensor& rois, const char* name) {
  TORCH_CHECK_VALUE(values.dim() == 4, name, " must have 4 dimensions, got ", values.dim());
  TORCH_CHECK_VALUE(rois.dim() == 2 && rois.size(1) == 5, "rois must have shape (N, 5), got ",
                    rois.sizes());
  TORCH_CHECK_TYPE(values.scalar_type() == rois.scalar_type(), name, " (", values.scalar_type(),
                   ") and rois (", rois.scalar_type(), ") must have the same dtype");
}

template <typename T>
void check_batch_index(const T* rois, int64_t n, int64_t batch) {
  for (int64_t i = 0; i < n; ++i) {
    const double b = double(rois[5 * i]);
    TORCH_CHECK_VALUE(b >= 0 && b < double(batch) && b == std::floor(b), "rois[", i,
                      ", 0] is the batch index and must be an integer in 0..", batch - 1,
                      " for features of batch size ", batch, ", got ", b,
                      ". Give RoIs as (batch_index, x1, y1, x2, y2)");
  }
}

at::Tensor forward(const at::Tensor& features, const at::Tensor& rois_, int64_t pooled_h,
                   int64_t pooled_w, double scale) {
  check_inputs(features, rois_, "features");
  const auto map = features.contiguous(at::MemoryFormat::ChannelsLast);
  const auto rois = rois_.contiguous();
  auto pooled = at::empty({rois.size(0), map.size(1), pooled_h, pooled_w}, map.options(),
                          at::MemoryFormat::Contiguous);
  AT_DISPATCH_FLOATING_TYPES(map.scalar_type(), "prroi_pool", [&] {
    const Problem<scalar_t> pr{map.const_data_ptr<scalar_t>(), rois.const_data_ptr<scalar_t>(),
                               rois.size(0), map.size(0), map.size(1), map.size(2), map.size(3),
                               pooled_h, pooled_w, scale};
    check_batch_index(pr.rois, pr.num_rois, pr.batch);
    const auto& k = best_kernels<scalar_t>();
    auto* out = pooled.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, k.groups(pr.channels) * pr.num_rois, 1,
                     [&](int64_t begin, int64_t end) { k.forward(pr, out, begin, end); });
  });
  return pooled;
}

at::Tensor grad_rois(const at::Tensor& grad_, const at::Tensor& features, const at::Tensor& rois_,
                     double scale) {
  check_inputs(features, rois_, "features");
  check_inputs(grad_, rois_, "grad");
  TORCH_CHECK_VALUE(grad_.size(0) == rois_.size(0) && grad_.size(1) == features.size(1),
                    "grad must have shape (N, C, h, w), got ", grad_.sizes());
  const auto map = features.contiguous(at::MemoryFormat::ChannelsLast);
  const auto rois = rois_.contiguous(), grad = grad_.contiguous();
  auto result = at::zeros(rois.sizes(), rois.options());
  AT_DISPATCH_FLOATING_TYPES(map.scalar_type(), "prroi_pool_grad_rois", [&] {
    const Problem<scalar_t> pr{map.const_data_ptr<scalar_t>(), rois.const_data_ptr<scalar_t>(),
                               rois.size(0), map.size(0), map.size(1), map.size(2), map.size(3),
                               grad.size(2), grad.size(3), scale};
    check_batch_index(pr.rois, pr.num_rois, pr.batch);
    const auto& k = best_kernels<scalar_t>();
    const int64_t n = pr.num_rois, groups = k.groups(pr.channels);
    std::vector<double> partial(size_t(groups * n * 4));
    const auto* g = grad.const_data_ptr<scalar_t>();
    at::parallel_for(0, groups * n, 1, [&](int64_t begin, int64_t end) {
      k.grad_rois(pr, g, partial.data(), begin, end);
    });
    auto* out = result.mutable_data_ptr<scalar_t>();
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t d = 0; d < 4; ++d) {
        double sum = 0;
        for (int64_t group = 0; group < groups; ++group) sum += partial[(group * n + i) * 4 + d];
        out[5 * i + 1 + d] = scalar_t(sum);
      }
    }
  });
  return result;
}

at::Tensor grad_features(const at::Tensor& grad_, const at::Tensor& rois_, int64_t batch,
                         int64_t height, int64_t width, double scale) {
  check_inputs(grad_, rois_, "grad");
  TORCH_CHECK_VALUE(grad_.size(0) == rois_.size(0), "grad and rois must have the same length, got ",
                    grad_.size(0), " and ", rois_.size(0));
  const auto rois = rois_.contiguous(), grad = grad_.contiguous();
  auto result = at::empty({batch, grad.size(1), height, width}, grad.options(),
                          at::MemoryFormat::ChannelsLast)
                    .zero_();
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "prroi_pool_grad_features", [&] {
    const Problem<scalar_t> pr{nullptr, rois.const_data_ptr<scalar_t>(), rois.size(0), batch,
                               grad.size(1), height, width, grad.size(2), grad.size(3), scale};
    check_batch_index(pr.rois, pr.num_rois, pr.batch);
    const auto& k = best_kernels<scalar_t>();
    const int64_t blocks = batch * k.groups(pr.channels);
    if (blocks == 0 || height == 0) return;
    // Row bands only if images and channels are too few for the threads. Each element is summed
    // over the boxes in their order for any bands, so the bits do not depend on the bands.
    const int64_t bands = std::clamp<int64_t>((2 * at::get_num_threads() - 1) / blocks, 1, height);
    const auto* g = grad.const_data_ptr<scalar_t>();
    auto* out = result.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, blocks * bands, 1, [&](int64_t begin, int64_t end) {
      k.grad_features(pr, g, out, bands, begin, end);
    });
  });
  return result;
}

}  // namespace

// The schemas live in __init__.py, since they exist without this extension too.
TORCH_LIBRARY_IMPL(ebm_ops, CPU, m) {
  m.impl("prroi_pool", &forward);
  m.impl("prroi_pool_grad_rois", &grad_rois);
  m.impl("prroi_pool_grad_features", &grad_features);
}

}  // namespace prroi_pool
}  // namespace ebm_ops
