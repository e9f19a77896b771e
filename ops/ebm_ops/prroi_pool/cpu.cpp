// Precise RoI pooling for CPU tensors: the torch side of kernel.h. What pools from one map is what
// pools from the maps of several levels, with one map.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <array>

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

void check_grad(const at::Tensor& grad, const at::Tensor& rois) {
  check_inputs(grad, rois, "grad");
  TORCH_CHECK_VALUE(grad.size(0) == rois.size(0), "grad and rois must have the same length, got ",
                    grad.size(0), " and ", rois.size(0));
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

// The rows of the RoIs on each map.
using Rows = std::vector<std::vector<int64_t>>;

Rows rows_of_levels(const at::Tensor& levels_, const at::Tensor& rois, size_t maps, size_t scales) {
  TORCH_CHECK_VALUE(maps > 0 && maps == scales, "there must be one scale for each map, got ", maps,
                    " maps and ", scales, " scales");
  TORCH_CHECK_VALUE(levels_.dim() == 1 && levels_.size(0) == rois.size(0),
                    "levels must have shape (N,) for rois (N, 5), got ", levels_.sizes());
  TORCH_CHECK_TYPE(levels_.scalar_type() == at::kLong, "levels must be int64, got ",
                   levels_.scalar_type());
  const auto levels = levels_.contiguous();
  const int64_t* level = levels.const_data_ptr<int64_t>();
  Rows rows(maps);
  for (int64_t n = 0; n < levels.size(0); ++n) {
    TORCH_CHECK_VALUE(level[n] >= 0 && level[n] < int64_t(maps), "levels[", n,
                      "] is the map of rois[", n, "] and must be in 0..", maps - 1, " for ", maps,
                      " maps, got ", level[n]);
    rows[size_t(level[n])].push_back(n);
  }
  return rows;
}

// The RoIs on each map (`rows` null: all on the only one) in bands of map rows, and in a band from
// left to right: boxes that follow each other share pixels, which are then in the cache.
template <typename T>
Rows by_place(const at::Tensor& rois, const Rows* rows, at::ArrayRef<double> scales) {
  constexpr double band = 8, most = 1e9;  // feature cells
  const auto cell = [=](double x) {  // NaN goes with the smallest
    return x > -most ? int64_t(std::floor(x < most ? x : most)) : -int64_t(most);
  };
  Rows order(scales.size());
  for (size_t l = 0; l < scales.size(); ++l) {
    const int64_t count = rows ? int64_t((*rows)[l].size()) : rois.size(0);
    std::vector<std::array<int64_t, 4>> places;
    for (int64_t n = 0; n < count; ++n) {
      const int64_t row = rows ? (*rows)[l][size_t(n)] : n;
      const T* r = rois.const_data_ptr<T>() + 5 * row;
      places.push_back({int64_t(r[0]), cell(double(r[2]) * scales[l] / band),
                        cell(double(r[1]) * scales[l]), row});
    }
    std::sort(places.begin(), places.end());
    for (const auto& place : places) order[l].push_back(place[3]);
  }
  return order;
}

// A map and its RoIs; `rows` may be null. The tensors have to outlive the problem.
template <typename T>
Problem<T> problem(const T* features, const at::Tensor& rois, at::IntArrayRef shape,
                   at::IntArrayRef bins, double scale, const std::vector<int64_t>* rows) {
  const int64_t count = rows ? int64_t(rows->size()) : rois.size(0);
  return {features, rois.const_data_ptr<T>(), count,   shape[0], shape[1], shape[2],
          shape[3], bins[0],                  bins[1], scale,    rows ? rows->data() : nullptr};
}

// Calls run(l, begin, end) until the items 0 .. counts[l] - 1 of every l are done, in any order.
template <typename F>
void for_all(const std::vector<int64_t>& counts, F run) {
  int64_t total = 0;
  for (int64_t count : counts) total += count;
  at::parallel_for(0, total, 1, [&](int64_t begin, int64_t end) {
    int64_t start = 0;
    for (size_t l = 0; l < counts.size(); start += counts[l++]) {
      const int64_t b = std::max(begin - start, int64_t(0)), e = std::min(end - start, counts[l]);
      if (b < e) run(l, b, e);
    }
  });
}

std::vector<at::Tensor> channels_last(at::TensorList features, const at::Tensor& rois) {
  std::vector<at::Tensor> maps;
  for (const auto& one : features) {
    check_inputs(one, rois, "features");
    TORCH_CHECK_VALUE(one.size(0) == features[0].size(0) && one.size(1) == features[0].size(1),
                      "all maps must have the same batch size and channels, got ", one.sizes(),
                      " and ", features[0].sizes());
    maps.push_back(one.contiguous(at::MemoryFormat::ChannelsLast));
  }
  return maps;
}

at::Tensor pool(at::TensorList features, const at::Tensor& rois_, const Rows* rows, int64_t pooled_h,
                int64_t pooled_w, at::ArrayRef<double> scales) {
  const auto maps = channels_last(features, rois_);
  const auto rois = rois_.contiguous();
  const int64_t channels = maps[0].size(1), bins[2] = {pooled_h, pooled_w};
  auto pooled = at::empty({rois.size(0), channels, pooled_h, pooled_w}, maps[0].options(),
                          at::MemoryFormat::Contiguous);
  AT_DISPATCH_FLOATING_TYPES(rois.scalar_type(), "prroi_pool", [&] {
    check_batch_index(rois.const_data_ptr<scalar_t>(), rois.size(0), maps[0].size(0));
    const auto& k = best_kernels<scalar_t>();
    const Rows order = by_place<scalar_t>(rois, rows, scales);
    std::vector<Problem<scalar_t>> problems;
    std::vector<int64_t> counts;
    for (size_t l = 0; l < maps.size(); ++l) {
      problems.push_back(problem(maps[l].const_data_ptr<scalar_t>(), rois, maps[l].sizes(), bins,
                                 scales[l], &order[l]));
      counts.push_back(problems[l].num_rois);
    }
    auto* out = pooled.mutable_data_ptr<scalar_t>();
    for_all(counts, [&](size_t l, int64_t b, int64_t e) { k.forward(problems[l], out, b, e); });
  });
  return pooled;
}

at::Tensor slopes(const at::Tensor& grad_, at::TensorList features, const at::Tensor& rois_,
                  const Rows* rows, at::ArrayRef<double> scales) {
  const auto maps = channels_last(features, rois_);
  check_grad(grad_, rois_);
  TORCH_CHECK_VALUE(grad_.size(1) == maps[0].size(1), "grad must have shape (N, C, h, w), got ",
                    grad_.sizes());
  const auto rois = rois_.contiguous(), grad = grad_.contiguous();
  auto result = at::zeros(rois.sizes(), rois.options());
  AT_DISPATCH_FLOATING_TYPES(rois.scalar_type(), "prroi_pool_grad_rois", [&] {
    check_batch_index(rois.const_data_ptr<scalar_t>(), rois.size(0), maps[0].size(0));
    const auto& k = best_kernels<scalar_t>();
    const Rows order = by_place<scalar_t>(rois, rows, scales);
    std::vector<Problem<scalar_t>> problems;
    std::vector<int64_t> counts;
    for (size_t l = 0; l < maps.size(); ++l) {
      problems.push_back(problem(maps[l].const_data_ptr<scalar_t>(), rois, maps[l].sizes(),
                                 grad.sizes().slice(2), scales[l], &order[l]));
      counts.push_back(problems[l].num_rois);
    }
    const auto* g = grad.const_data_ptr<scalar_t>();
    auto* out = result.mutable_data_ptr<scalar_t>();
    for_all(counts,
            [&](size_t l, int64_t b, int64_t e) { k.grad_rois(problems[l], g, out, b, e); });
  });
  return result;
}

// `sizes`: rows and columns of each map.
std::vector<at::Tensor> spread(const at::Tensor& grad_, const at::Tensor& rois_, const Rows* rows,
                               int64_t batch, at::IntArrayRef sizes, at::ArrayRef<double> scales) {
  check_grad(grad_, rois_);
  const auto rois = rois_.contiguous(), grad = grad_.contiguous();
  std::vector<at::Tensor> result;
  for (size_t l = 0; l < scales.size(); ++l) {
    result.push_back(at::empty({batch, grad.size(1), sizes[2 * l], sizes[2 * l + 1]},
                               grad.options(), at::MemoryFormat::ChannelsLast)
                         .zero_());
  }
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "prroi_pool_grad_features", [&] {
    check_batch_index(rois.const_data_ptr<scalar_t>(), rois.size(0), batch);
    const auto& k = best_kernels<scalar_t>();
    const int64_t threads = at::get_num_threads();
    const int64_t parts = std::min(k.groups(grad.size(1)), threads), blocks = batch * parts;
    if (blocks == 0) return;
    std::vector<Problem<scalar_t>> problems;
    std::vector<int64_t> bands, counts;
    for (size_t l = 0; l < result.size(); ++l) {
      const int64_t height = sizes[2 * l];
      problems.push_back(problem<scalar_t>(nullptr, rois, result[l].sizes(), grad.sizes().slice(2),
                                           scales[l], rows ? &(*rows)[l] : nullptr));
      // Parts of the channels for the threads, and row bands only if images and channels are too few.
      // Each element is summed over the boxes in their order, for any parts and bands.
      const int64_t most = std::max<int64_t>(height, 1);
      bands.push_back(std::clamp<int64_t>((2 * threads - 1) / blocks, 1, most));
      counts.push_back(height ? blocks * bands[l] : 0);
    }
    const auto* g = grad.const_data_ptr<scalar_t>();
    for_all(counts, [&](size_t l, int64_t b, int64_t e) {
      auto* out = result[l].mutable_data_ptr<scalar_t>();
      k.grad_features(problems[l], g, out, parts, bands[l], b, e);
    });
  });
  return result;
}

at::Tensor forward(const at::Tensor& features, const at::Tensor& rois, int64_t pooled_h,
                   int64_t pooled_w, double scale) {
  return pool({features}, rois, nullptr, pooled_h, pooled_w, {scale});
}

at::Tensor grad_rois(const at::Tensor& grad, const at::Tensor& features, const at::Tensor& rois,
                     double scale) {
  return slopes(grad, {features}, rois, nullptr, {scale});
}

at::Tensor grad_features(const at::Tensor& grad, const at::Tensor& rois, int64_t batch,
                         int64_t height, int64_t width, double scale) {
  return spread(grad, rois, nullptr, batch, {height, width}, {scale})[0];
}

at::Tensor forward_levels(at::TensorList features, const at::Tensor& rois, const at::Tensor& levels,
                          int64_t pooled_h, int64_t pooled_w, at::ArrayRef<double> scales) {
  const auto rows = rows_of_levels(levels, rois, features.size(), scales.size());
  return pool(features, rois, &rows, pooled_h, pooled_w, scales);
}

at::Tensor grad_rois_levels(const at::Tensor& grad, at::TensorList features, const at::Tensor& rois,
                            const at::Tensor& levels, at::ArrayRef<double> scales) {
  const auto rows = rows_of_levels(levels, rois, features.size(), scales.size());
  return slopes(grad, features, rois, &rows, scales);
}

std::vector<at::Tensor> grad_features_levels(const at::Tensor& grad, const at::Tensor& rois,
                                             const at::Tensor& levels, int64_t batch,
                                             at::IntArrayRef sizes, at::ArrayRef<double> scales) {
  const auto rows = rows_of_levels(levels, rois, sizes.size() / 2, scales.size());
  return spread(grad, rois, &rows, batch, sizes, scales);
}

}  // namespace

// The schemas live in __init__.py and levels.py, since they exist without this extension too.
TORCH_LIBRARY_IMPL(ebm_ops, CPU, m) {
  m.impl("prroi_pool", &forward);
  m.impl("prroi_pool_grad_rois", &grad_rois);
  m.impl("prroi_pool_grad_features", &grad_features);
  m.impl("prroi_pool_levels", &forward_levels);
  m.impl("prroi_pool_levels_grad_rois", &grad_rois_levels);
  m.impl("prroi_pool_levels_grad_features", &grad_features_levels);
}

}  // namespace prroi_pool
}  // namespace ebm_ops
