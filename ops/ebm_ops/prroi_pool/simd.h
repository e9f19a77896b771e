// The vector code of precise RoI pooling, included once per instruction set by each_isa.h.

namespace ebm_ops {
namespace prroi_pool {
namespace EBM_ISA {

#include "../vector.h"

#include "../transpose.h"

// A group is NV whole vectors of channels, or (PARTIAL) one vector of which `used` lanes exist.
constexpr int64_t kVectors = 4;

template <typename T>
struct Group {
  int64_t channel, vectors, used;  // used == lanes unless the group is partial
};

template <typename T>
inline int64_t groups(int64_t channels) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const int64_t whole = channels / lanes;
  return (whole + kVectors - 1) / kVectors + (channels % lanes != 0);
}

// Whole vectors are distributed evenly (6 become 3 + 3), so that threads get equal work.
template <typename T>
inline Group<T> group(int64_t channels, int64_t index) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const int64_t whole = channels / lanes, count = (whole + kVectors - 1) / kVectors;
  if (index == count) return {whole * lanes, 1, channels % lanes};
  const int64_t begin = whole * index / count, end = whole * (index + 1) / count;
  return {begin * lanes, end - begin, lanes};
}

// Goes along the nodes of an axis and finds the bins begin .. end - 1 that touch one.
struct Touching {
  int64_t begin = 0, end = 0;
  template <typename T>
  void move_to(const Axis<T>& axis, int64_t node) {
    const int64_t bins = int64_t(axis.first.size());
    while (begin < bins && axis.first[begin] + axis.count[begin] <= node) ++begin;
    end = std::max(begin, end);
    while (end < bins && axis.first[end] <= node) ++end;
  }
};

// Per-thread memory, reused from box to box. A strip is one row of the box's columns, in the channels
// of one group.
template <typename T>
struct Scratch {
  Box<T> box;
  int64_t stride;         // of `bins`: whole vectors, and one more to spread rows over the cache
  std::vector<T> bins;    // (P * Q, channels): a pooled tensor or its gradient, beyond C zero
  std::vector<T> strip;   // the map, pooled along y
  std::vector<T> spread;  // the gradient, spread along x
  std::vector<T> by_row;  // a vector per row of a bin: dL/d(weight of that row), lane by lane

  explicit Scratch(const Problem<T>& pr) {
    constexpr int64_t lanes = Simd<T>::lanes;
    stride = (pr.channels + lanes - 1) / lanes * lanes + lanes;
    bins.resize(size_t(pr.pooled_h * pr.pooled_w * stride));
  }
  // Builds the weights of a row of `rois`; false if the box pools to zero.
  bool build(const Problem<T>& pr, int64_t row, bool derivatives) {
    box.build(pr, row, derivatives);
    if (box.batch < 0) return false;
    const size_t size = size_t((box.x.end() - box.x.begin()) * kVectors * Simd<T>::lanes);
    if (strip.size() < size) strip.resize(size), spread.resize(size);
    return true;
  }
  T* bin(const Problem<T>& pr, int64_t p, int64_t q, const Group<T>& g) {
    return bins.data() + (p * pr.pooled_w + q) * stride + g.channel;
  }
  // The first pixel of bin row p in an image's map (or its gradient).
  int64_t pixel(const Problem<T>& pr, int64_t p, const Group<T>& g) const {
    return ((box.batch * pr.height + box.y.first[p]) * pr.width + box.x.begin()) * pr.channels +
           g.channel;
  }
};

// Pools the rows of bin row p along y, then each of its bins along x.
template <typename T, int NV, bool PARTIAL>
EBM_TARGET void forward_strip(const Problem<T>& pr, Scratch<T>& s, const Group<T>& g, int64_t p) {
  constexpr int64_t lanes = Simd<T>::lanes, step = NV * lanes;
  const Axis<T>&x = s.box.x, &y = s.box.y;
  const int64_t left = x.begin(), columns = x.end() - left, row = pr.width * pr.channels;
  const int64_t count = y.count[p];
  const T *src = pr.features + s.pixel(pr, p, g), *weight = y.value.data() + y.start[p];
  T* strip = s.strip.data();
  for (int64_t j = 0; j < columns; ++j, src += pr.channels) {
    Vec<T> t[NV] = {};
    for (int64_t i = 0; i < count; ++i) {
      for (int v = 0; v < NV; ++v) {
        t[v] += weight[i] * load<T, PARTIAL>(src + i * row + v * lanes, g.used);
      }
    }
    for (int v = 0; v < NV; ++v) store<T, false>(strip + j * step + v * lanes, t[v], lanes);
  }
  for (int64_t q = 0; q < pr.pooled_w; ++q) {
    const T *in = strip + (x.first[q] - left) * step, *w = x.value.data() + x.start[q];
    Vec<T> t[NV] = {};
    for (int64_t k = 0; k < x.count[q]; ++k) {
      for (int v = 0; v < NV; ++v) t[v] += w[k] * load<T, false>(in + k * step + v * lanes, lanes);
    }
    T* out = s.bin(pr, p, q, g);
    for (int v = 0; v < NV; ++v) store<T, false>(out + v * lanes, t[v], lanes);
  }
}

// s.spread = the gradient of bin row p, spread along x: sum_q g[p, q] Vx[q, j].
template <typename T, int NV>
EBM_FN void spread_along_x(const Problem<T>& pr, Scratch<T>& s, const Group<T>& g, int64_t p) {
  constexpr int64_t lanes = Simd<T>::lanes, step = NV * lanes;
  const Axis<T>& x = s.box.x;
  T* out = s.spread.data();
  Touching bins;
  for (int64_t j = x.begin(); j < x.end(); ++j, out += step) {
    bins.move_to(x, j);
    Vec<T> t[NV] = {};
    for (int64_t q = bins.begin; q < bins.end; ++q) {
      const T *grad = s.bin(pr, p, q, g), w = x.value[x.start[q] + j - x.first[q]];
      for (int v = 0; v < NV; ++v) t[v] += w * load<T, false>(grad + v * lanes, lanes);
    }
    for (int v = 0; v < NV; ++v) store<T, false>(out + v * lanes, t[v], lanes);
  }
}

// Adds the share of bin row p to dL/d(x1, y1, x2, y2), lane by lane. The derivatives by the weights,
//   dL/dVy[p, i] = sum_j F[i, j] sum_q g[p, q] Vx[q, j],
//   dL/dVx[q, j] = sum_p g[p, q] sum_i Vy[p, i] F[i, j],
// serve both sides of an axis, and each pixel is read once for both axes.
template <typename T, int NV, bool PARTIAL>
EBM_TARGET void grad_strip(const Problem<T>& pr, Scratch<T>& s, const Group<T>& g, int64_t p,
                           Vec<T> (&sum)[4]) {
  constexpr int64_t lanes = Simd<T>::lanes, step = NV * lanes;
  const Axis<T>&x = s.box.x, &y = s.box.y;
  const int64_t left = x.begin(), columns = x.end() - left, row = pr.width * pr.channels;
  const int64_t count = y.count[p], at = y.start[p];
  const T *src = pr.features + s.pixel(pr, p, g), *weight = y.value.data() + at;
  spread_along_x<T, NV>(pr, s, g, p);
  s.by_row.assign(size_t(count * lanes), T(0));
  T* by_row = s.by_row.data();
  const T* spread = s.spread.data();
  T* strip = s.strip.data();
  for (int64_t j = 0; j < columns; ++j, src += pr.channels) {
    Vec<T> t[NV] = {}, grad[NV];
    for (int v = 0; v < NV; ++v) grad[v] = load<T, false>(spread + j * step + v * lanes, lanes);
    for (int64_t i = 0; i < count; ++i) {
      Vec<T> d = load<T, false>(by_row + i * lanes, lanes);
      for (int v = 0; v < NV; ++v) {
        const Vec<T> f = load<T, PARTIAL>(src + i * row + v * lanes, g.used);
        t[v] += weight[i] * f;
        d += grad[v] * f;
      }
      store<T, false>(by_row + i * lanes, d, lanes);
    }
    for (int v = 0; v < NV; ++v) store<T, false>(strip + j * step + v * lanes, t[v], lanes);
  }
  for (int64_t i = 0; i < count; ++i) {
    const Vec<T> d = load<T, false>(by_row + i * lanes, lanes);
    sum[1] += y.lower[at + i] * d;
    sum[3] += y.upper[at + i] * d;
  }
  for (int64_t q = 0; q < pr.pooled_w; ++q) {
    const T *in = strip + (x.first[q] - left) * step, *from = s.bin(pr, p, q, g);
    Vec<T> grad[NV];
    for (int v = 0; v < NV; ++v) grad[v] = load<T, false>(from + v * lanes, lanes);
    for (int64_t k = 0; k < x.count[q]; ++k) {
      Vec<T> d = {};
      for (int v = 0; v < NV; ++v) d += grad[v] * load<T, false>(in + k * step + v * lanes, lanes);
      sum[0] += x.lower[x.start[q] + k] * d;
      sum[2] += x.upper[x.start[q] + k] * d;
    }
  }
}

// Adds the gradient of bin row p to the rows row_begin .. row_end - 1 of the map's.
template <typename T, int NV, bool PARTIAL>
EBM_TARGET void spread_strip(const Problem<T>& pr, Scratch<T>& s, const Group<T>& g, int64_t p,
                             T* grad_features, int64_t row_begin, int64_t row_end) {
  constexpr int64_t lanes = Simd<T>::lanes, step = NV * lanes;
  const Axis<T>&x = s.box.x, &y = s.box.y;
  const int64_t columns = x.end() - x.begin(), row = pr.width * pr.channels;
  const int64_t begin = std::max<int64_t>(row_begin - y.first[p], 0);
  const int64_t end = std::min(row_end - y.first[p], y.count[p]);
  if (begin >= end) return;
  spread_along_x<T, NV>(pr, s, g, p);
  const T *weight = y.value.data() + y.start[p], *spread = s.spread.data();
  T* dst = grad_features + s.pixel(pr, p, g);
  for (int64_t j = 0; j < columns; ++j, dst += pr.channels) {
    Vec<T> grad[NV];
    for (int v = 0; v < NV; ++v) grad[v] = load<T, false>(spread + j * step + v * lanes, lanes);
    for (int64_t i = begin; i < end; ++i) {
      for (int v = 0; v < NV; ++v) {
        T* d = dst + i * row + v * lanes;
        store<T, PARTIAL>(d, load<T, PARTIAL>(d, g.used) + weight[i] * grad[v], g.used);
      }
    }
  }
}

// Chooses the instance for a group's size.
#define EBM_FOR_GROUP(T, g, function, ...)                       \
  do {                                                           \
    if ((g).used < Simd<T>::lanes) function<T, 1, true>(__VA_ARGS__); \
    else if ((g).vectors == 4) function<T, 4, false>(__VA_ARGS__);    \
    else if ((g).vectors == 3) function<T, 3, false>(__VA_ARGS__);    \
    else if ((g).vectors == 2) function<T, 2, false>(__VA_ARGS__);    \
    else function<T, 1, false>(__VA_ARGS__);                     \
  } while (0)

template <typename T>
EBM_TARGET void forward(const Problem<T>& pr, T* pooled, int64_t begin, int64_t end) {
  Scratch<T> s(pr);
  const int64_t count = groups<T>(pr.channels), bins = pr.pooled_h * pr.pooled_w;
  for (int64_t n = begin; n < end; ++n) {
    T* out = pooled + pr.row(n) * pr.channels * bins;
    if (!s.build(pr, pr.row(n), false)) {
      std::fill(out, out + pr.channels * bins, T(0));
      continue;
    }
    for (int64_t p = 0; p < pr.pooled_h; ++p) {
      for (int64_t k = 0; k < count; ++k) {
        const Group<T> g = group<T>(pr.channels, k);
        EBM_FOR_GROUP(T, g, forward_strip, pr, s, g, p);
      }
    }
    transpose(s.bins.data(), s.stride, bins, pr.channels, out, bins);
  }
}

template <typename T>
EBM_TARGET void grad_rois(const Problem<T>& pr, const T* grad, T* out, int64_t begin,
                          int64_t end) {
  Scratch<T> s(pr);
  const int64_t count = groups<T>(pr.channels), bins = pr.pooled_h * pr.pooled_w;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t row = pr.row(n);
    std::fill(out + 5 * row, out + 5 * row + 5, T(0));
    if (!s.build(pr, row, true)) continue;
    transpose(grad + row * pr.channels * bins, bins, pr.channels, bins, s.bins.data(), s.stride);
    Vec<T> sum[4] = {};
    for (int64_t p = 0; p < pr.pooled_h; ++p) {
      for (int64_t k = 0; k < count; ++k) {
        const Group<T> g = group<T>(pr.channels, k);
        EBM_FOR_GROUP(T, g, grad_strip, pr, s, g, p, sum);
      }
    }
    for (int k = 0; k < 4; ++k) {
      double total = 0;
      for (int64_t l = 0; l < Simd<T>::lanes; ++l) total += double(sum[k][l]);
      out[5 * row + 1 + k] = T(total);
    }
  }
}

template <typename T>
EBM_TARGET void grad_features(const Problem<T>& pr, const T* grad, T* grad_features, int64_t parts,
                              int64_t bands, int64_t begin, int64_t end) {
  Scratch<T> s(pr);
  const int64_t count = groups<T>(pr.channels), bins = pr.pooled_h * pr.pooled_w;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t band = item % bands, part = item / bands % parts, b = item / bands / parts;
    const int64_t row_begin = pr.height * band / bands, row_end = pr.height * (band + 1) / bands;
    const int64_t first = count * part / parts, last = count * (part + 1) / parts;
    if (first == last) continue;
    const Group<T> final = group<T>(pr.channels, last - 1);
    const int64_t channel = group<T>(pr.channels, first).channel;
    const int64_t channels =
        final.channel + (final.vectors - 1) * Simd<T>::lanes + final.used - channel;
    for (int64_t n = 0; n < pr.num_rois; ++n) {
      const int64_t row = pr.row(n);
      if (int64_t(pr.rois[5 * row]) != b || !s.build(pr, row, false)) continue;
      if (s.box.y.end() <= row_begin || s.box.y.begin() >= row_end) continue;
      transpose(grad + (row * pr.channels + channel) * bins, bins, channels, bins,
                s.bins.data() + channel, s.stride);
      for (int64_t p = 0; p < pr.pooled_h; ++p) {
        for (int64_t k = first; k < last; ++k) {
          const Group<T> g = group<T>(pr.channels, k);
          EBM_FOR_GROUP(T, g, spread_strip, pr, s, g, p, grad_features, row_begin, row_end);
        }
      }
    }
  }
}

template <typename T>
Kernels<T> kernels() {
  return {groups<T>, forward<T>, grad_rois<T>, grad_features<T>};
}

}  // namespace EBM_ISA
}  // namespace prroi_pool
}  // namespace ebm_ops

#undef EBM_FOR_GROUP
