// Pooling on rotated grids on a CPU: the numerical core. It does not use torch, so that a small
// program can run it under a sanitizer. Layouts: maps and their gradients (B, H, W, C), i.e. channels last;
// pooled values and their gradients (N, C, rows, columns), i.e. channels first; boxes and tangents
// (N, 5) = x, y, l, w, yaw.
//
// With sample k of a bin at fractions (p, q) of the box,
//   dx = p l cos - q w sin,  dy = p l sin + q w cos,  u = (x + dx - x0) / cell - offset,  v likewise,
//   S(u, v) = (1-a)(1-b) F00 + a(1-b) F10 + (1-a)b F01 + ab F11,   a = u - floor(u), b = v - floor(v)
// the pooled value is the mean of S over the samples of the bin. With a tangent h (N, 5), everything is
// replaced by its derivative along h. S is linear in u and in v, so four weights per sample suffice
// for everything that concerns the map, and the three sums over channels
//   e0 = <g, F10 - F00>,  e1 = <g, F11 - F01>,  e2 = <g, F01 - F00>
// give <g, S_u> = e0 + b (e1 - e0), <g, S_v> = e2 + a (e1 - e0), <g, S_uv> = e1 - e0 and with them
// the first and second derivatives by the box. What is computed once per sample is double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ebm_ops {
namespace rotated_grid_pool {

template <typename T>
struct Problem {
  const T* bev;  // (B, H, W, C); null if only the gradient to the map is needed
  const T* boxes;
  const int64_t* images;  // (N,)
  const T* tangent;       // null: the pooling itself
  int64_t num_boxes, batch, channels, height, width, rows, columns;
  int64_t samples_per_bin;  // per axis; 0: one sample per bin, the outer ones on the box's edges
  double x0, y0, cell, offset;

  int64_t bins() const { return rows * columns; }
};

// Positions of the samples 0 .. count - 1 along a side, from 1/2 down to -1/2.
inline double fraction(int64_t k, int64_t count, bool edges) {
  if (!edges) return 0.5 - (double(k) + 0.5) / double(count);
  return count > 1 ? 0.5 - double(k) / double(count - 1) : 0.0;
}

// A sample that touches the map: its taps are the pixels (j, i), (j + 1, i), (j, i + 1) and
// (j + 1, i + 1), of which some may lie outside.
struct Sample {
  int64_t bin, i, j;
  double p, q, dx, dy, a, b;
};

// The weight of one pixel in a bin.
template <typename T>
struct Tap {
  int64_t row, start;  // `start`: offset of the pixel's channels in its image
  T weight;
};

// The samples of one box. A box with a NaN or an infinity, or outside the map, has none.
template <typename T>
struct Box {
  double cosine = 1, sine = 0, share = 1;
  double tangent[5] = {};
  std::vector<Sample> samples;

  void build(const Problem<T>& pr, int64_t n) {
    samples.clear();
    const T* box = pr.boxes + 5 * n;
    const double x = box[0], y = box[1], l = box[2], w = box[3], yaw = box[4];
    for (int k = 0; k < 5; ++k) {
      if (!std::isfinite(double(box[k]))) return;
      tangent[k] = pr.tangent ? double(pr.tangent[5 * n + k]) : 0;
    }
    cosine = std::cos(yaw), sine = std::sin(yaw);
    const bool edges = pr.samples_per_bin == 0;
    const int64_t each = edges ? 1 : pr.samples_per_bin;
    share = 1.0 / double(each * each);
    for (int64_t row = 0; row < pr.rows; ++row) {
      for (int64_t column = 0; column < pr.columns; ++column) {
        for (int64_t k = 0; k < each * each; ++k) {
          Sample s;
          s.bin = row * pr.columns + column;
          s.p = fraction(column * each + k % each, pr.columns * each, edges);
          s.q = -fraction(row * each + k / each, pr.rows * each, edges);
          s.dx = s.p * l * cosine - s.q * w * sine;
          s.dy = s.p * l * sine + s.q * w * cosine;
          const double u = (x + s.dx - pr.x0) / pr.cell - pr.offset;
          const double v = (y + s.dy - pr.y0) / pr.cell - pr.offset;
          // Positive comparisons, so that an overflow to infinity or NaN stays outside.
          if (!(u >= -1 && u < double(pr.width) && v >= -1 && v < double(pr.height))) continue;
          s.j = int64_t(std::floor(u)), s.i = int64_t(std::floor(v));
          s.a = u - double(s.j), s.b = v - double(s.i);
          samples.push_back(s);
        }
      }
    }
  }

  // The sample's motion along the tangent, in metres.
  void motion(const Sample& s, double& x, double& y) const {
    const double* h = tangent;
    x = h[0] + s.p * h[2] * cosine - s.q * h[3] * sine - h[4] * s.dy;
    y = h[1] + s.p * h[2] * sine + s.q * h[3] * cosine + h[4] * s.dx;
  }

  // The pixels under the samples, sample by sample and so bin by bin.
  void taps(const Problem<T>& pr, std::vector<Tap<T>>& taps, std::vector<int64_t>& first) const {
    taps.clear();
    first.assign(size_t(pr.bins() + 1), 0);
    for (const Sample& s : samples) {
      double weight[2][2] = {{(1 - s.a) * (1 - s.b), s.a * (1 - s.b)}, {(1 - s.a) * s.b, s.a * s.b}};
      if (pr.tangent) {
        double du, dv;
        motion(s, du, dv);
        du /= pr.cell, dv /= pr.cell;
        weight[0][0] = -du * (1 - s.b) - dv * (1 - s.a);
        weight[0][1] = du * (1 - s.b) - dv * s.a;
        weight[1][0] = -du * s.b + dv * (1 - s.a);
        weight[1][1] = du * s.b + dv * s.a;
      }
      for (int64_t i = s.i; i < s.i + 2; ++i) {
        for (int64_t j = s.j; j < s.j + 2; ++j) {
          if (i < 0 || i >= pr.height || j < 0 || j >= pr.width) continue;
          taps.push_back({i, (i * pr.width + j) * pr.channels,
                          T(share * weight[i - s.i][j - s.j])});
        }
      }
      first[size_t(s.bin + 1)] = int64_t(taps.size());
    }
    for (size_t b = 1; b < first.size(); ++b) first[b] = std::max(first[b], first[b - 1]);
  }

  // Adds a sample's share of dL/d(x, y, l, w, yaw), or of its derivative along the tangent.
  void add_gradient(const Problem<T>& pr, const Sample& s, const double (&e)[3], double* out) const {
    const double to_cells = share / pr.cell, uv = (e[1] - e[0]) * to_cells / pr.cell;
    const double gu = (e[0] + s.b * (e[1] - e[0])) * to_cells;
    const double gv = (e[2] + s.a * (e[1] - e[0])) * to_cells;
    double mx = gu, my = gv;  // multiply the derivatives of the sample's position
    if (pr.tangent) {
      motion(s, my, mx);
      mx *= uv, my *= uv;
      // Second derivatives of the position.
      const double* h = tangent;
      const double turn_x = -s.p * h[2] * sine - s.q * h[3] * cosine - h[4] * s.dx;
      const double turn_y = s.p * h[2] * cosine - s.q * h[3] * sine - h[4] * s.dy;
      out[2] += h[4] * s.p * (gv * cosine - gu * sine);
      out[3] -= h[4] * s.q * (gu * cosine + gv * sine);
      out[4] += gu * turn_x + gv * turn_y;
    }
    out[0] += mx;
    out[1] += my;
    out[2] += s.p * (mx * cosine + my * sine);
    out[3] += s.q * (my * cosine - mx * sine);
    out[4] += my * s.dx - mx * s.dy;
  }
};

// The functions of one instruction set. Work is divided into items that any thread can do in any
// order; every number is computed by one item in a fixed order, so its bits are always the same.
template <typename T>
struct Kernels {
  // Number of channel blocks.
  int64_t (*blocks)(int64_t channels);
  // Items are boxes. `pooled` (N, C, rows, columns) is written.
  void (*forward)(const Problem<T>&, T* pooled, int64_t begin, int64_t end);
  // Items are boxes. `grad_boxes` (N, 5) is written.
  void (*grad_boxes)(const Problem<T>&, const T* grad, T* grad_boxes, int64_t begin, int64_t end);
  // Items (b * blocks + block) * bands + band; band k owns the rows H k / bands .. H (k+1) / bands.
  // `grad_bev` (B, H, W, C) is added to.
  void (*grad_bev)(const Problem<T>&, const T* grad, T* grad_bev, int64_t bands, int64_t begin,
                   int64_t end);
};

}  // namespace rotated_grid_pool
}  // namespace ebm_ops

#define EBM_OPERATOR rotated_grid_pool
#define EBM_KERNELS "rotated_grid_pool/simd.h"
#include "../each_isa.h"
