// Precise RoI pooling on a CPU: the numerical core. It does not use torch, so that a small program
// can run it under a sanitizer. Layouts: features (B, H, W, C), i.e. channels last; pooled values and their
// gradients (N, C, P, Q), i.e. channels first; RoIs (N, 5) = batch index, x1, y1, x2, y2.
//
// Everything is separable. With V[q, j] = (1/w) * integral of the hat of column j over bin q,
//   P[p, q]     = sum_i Vy[p, i] sum_j F[i, j] Vx[q, j]
//   dL/dF[i, j] = sum_pq Vy[p, i] g[p, q] Vx[q, j]
//   dL/dx_r     = sum_pq g[p, q] sum_i Vy[p, i] sum_j F[i, j] dVx[q, j]/dx_r       (r = 1, 2)
// The weights are few numbers per box, so they are computed in double. The sums over pixels are
// computed in T, vectorised over channels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ebm_ops {
namespace prroi_pool {

// A box whose side is shorter than this many feature cells has no area: it pools to zero.
constexpr double kMinSide = 1e-5;

// One map and the RoIs on it. `pooled` and its gradient have the rows of `rois`.
template <typename T>
struct Problem {
  const T* features;  // (B, H, W, C); null if only gradients to features are needed
  const T* rois;      // (N, 5), or more rows of which `rows` are on this map
  int64_t num_rois, batch, channels, height, width, pooled_h, pooled_w;
  double scale;
  const int64_t* rows = nullptr;  // (N); null: all, in order

  int64_t row(int64_t n) const { return rows ? rows[n] : n; }
};

inline double hat(double t) { return std::max(0.0, 1.0 - std::abs(t)); }

inline double unit(double t) { return std::min(1.0, std::max(0.0, t)); }

// V, the mean of the hat over the bin from a to b, seen from the node, and its derivatives.
struct Weight {
  double value, by_a, by_b;
};

// With H the integral of the hat, V = (H(b) - H(a)) / width, dV/da = (V - hat(a)) / width and
// dV/db = (hat(b) - V) / width. Those lose digits where bins are thin. So everything is written as a
// sum of the bin's parts, relative to its width: under the rising and the falling half of the hat,
// before it and beyond it.
inline Weight mean_of_hat(double a, double b, double width, double inverse, bool derivatives) {
  const auto least = [](double x, double y) { return x < y ? x : y; };  // of values, one instruction
  const double most = least(width, 1.0);
  const double rising = std::max(0.0, least(most, least(1 + b, -a))) * inverse;
  const double falling = std::max(0.0, least(most, least(1 - a, b))) * inverse;
  Weight w{};
  w.value = 0.5 * (rising * (unit(1 + a) + unit(1 + b)) + falling * (unit(1 - a) + unit(1 - b)));
  if (!derivatives) return w;
  const double before = std::max(0.0, least(width, -1 - a)) * inverse;
  const double beyond = std::max(0.0, least(width, b - 1)) * inverse;
  const double half = 0.5 * (rising + falling) * (rising + falling);
  w.by_a = half - falling * falling - beyond * hat(a) * inverse;
  w.by_b = rising * rising - half + before * hat(b) * inverse;
  return w;
}

// The weights of one box along one axis. Bin k touches the nodes first[k] .. first[k] + count[k] - 1;
// first and first + count never decrease with k, so the bins that touch one node are consecutive.
template <typename T>
struct Axis {
  std::vector<int64_t> first, count, start;
  std::vector<T> value, lower, upper;  // V, dV/d(lower box side), dV/d(upper box side)

  // lo, hi: the box sides in image units; scale: feature cells per image unit.
  void build(double lo, double hi, double scale, int64_t bins, int64_t size, bool derivatives) {
    const double side = (hi - lo) * scale, width = side / bins, inverse = 1 / width;
    first.resize(bins), count.resize(bins), start.resize(bins);
    value.clear(), lower.clear(), upper.clear();
    for (int64_t k = 0; k < bins; ++k) {
      const double f0 = double(k) / bins, f1 = double(k + 1) / bins;
      const double a = lo * scale + f0 * side, b = lo * scale + f1 * side;
      // Clamped as doubles: a huge coordinate does not fit an integer.
      first[k] = int64_t(std::clamp(std::floor(a), 0.0, double(size)));
      count[k] = std::max<int64_t>(
          int64_t(std::clamp(std::ceil(b) + 1, 0.0, double(size))) - first[k], 0);
      start[k] = int64_t(value.size());
      for (int64_t j = first[k]; j < first[k] + count[k]; ++j) {
        const Weight w = mean_of_hat(a - double(j), b - double(j), width, inverse, derivatives);
        value.push_back(T(w.value));
        if (derivatives) {
          lower.push_back(T(scale * ((1 - f0) * w.by_a + (1 - f1) * w.by_b)));
          upper.push_back(T(scale * (f0 * w.by_a + f1 * w.by_b)));
        }
      }
    }
  }
  int64_t begin() const { return first.front(); }
  int64_t end() const { return first.back() + count.back(); }
};

// The weights of the box in a row of `rois`. `batch < 0` marks a box that pools to zero and has no gradient.
template <typename T>
struct Box {
  int64_t batch = -1;
  Axis<T> x, y;

  void build(const Problem<T>& p, int64_t row, bool derivatives) {
    const T* r = p.rois + 5 * row;
    const double x1 = r[1], y1 = r[2], x2 = r[3], y2 = r[4];
    batch = -1;
    const bool finite = std::isfinite(x1) && std::isfinite(y1) && std::isfinite(x2) &&
                        std::isfinite(y2);
    // Negated comparisons, so that NaN is rejected too.
    if (!finite || !((x2 - x1) * p.scale >= kMinSide) || !((y2 - y1) * p.scale >= kMinSide) ||
        !std::isfinite((x2 - x1) * p.scale) || !std::isfinite((y2 - y1) * p.scale)) {
      return;
    }
    x.build(x1, x2, p.scale, p.pooled_w, p.width, derivatives);
    y.build(y1, y2, p.scale, p.pooled_h, p.height, derivatives);
    if (x.begin() < x.end() && y.begin() < y.end()) batch = int64_t(r[0]);
  }
};

// The functions of one instruction set. Work is divided into items that any thread can do in any
// order; every number is computed by one item in a fixed order, so its bits are always the same.
template <typename T>
struct Kernels {
  // Number of channel groups, the largest number of parts of `grad_features`.
  int64_t (*groups)(int64_t channels);
  // Items are boxes. `pooled` (rows, C, P, Q) is written in the rows of this map.
  void (*forward)(const Problem<T>&, T* pooled, int64_t begin, int64_t end);
  // Items are boxes. `grad_rois` (rows, 5) is written in the rows of this map.
  void (*grad_rois)(const Problem<T>&, const T* grad, T* grad_rois, int64_t begin, int64_t end);
  // Items (b * parts + part) * bands + band; a part is some of the channels, and band k owns the rows
  // H k / bands .. H (k+1) / bands. `grad_features` (B, H, W, C) is added to.
  void (*grad_features)(const Problem<T>&, const T* grad, T* grad_features, int64_t parts,
                        int64_t bands, int64_t begin, int64_t end);
};

}  // namespace prroi_pool
}  // namespace ebm_ops

#define EBM_OPERATOR prroi_pool
#define EBM_KERNELS "prroi_pool/simd.h"
#include "../each_isa.h"
