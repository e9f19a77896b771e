// The vector code of precise RoI pooling, included once per instruction set by each_isa.h.

namespace ebm_ops {
namespace prroi_pool {
namespace EBM_ISA {

#include "../vector.h"

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

// Goes down the rows and finds the bins p0 .. p1 - 1 of the vertical axis that touch row i.
struct Rows {
  int64_t p0 = 0, p1 = 0;
  template <typename T>
  void move_to(const Axis<T>& y, int64_t i) {
    const int64_t bins = int64_t(y.first.size());
    while (p0 < bins && y.first[p0] + y.count[p0] <= i) ++p0;
    p1 = std::max(p0, p1);
    while (p1 < bins && y.first[p1] <= i) ++p1;
  }
};

// Per-thread memory, reused from box to box.
template <typename T>
struct Scratch {
  Box<T> box;
  std::vector<T> bins;  // (P * Q, channels of the group): a pooled tensor or its gradient
};

template <typename T, int NV, bool PARTIAL>
EBM_TARGET void forward_box(const Problem<T>& pr, Scratch<T>& s, const Group<T>& g, T* pooled) {
  constexpr int64_t lanes = Simd<T>::lanes, step = NV * lanes;
  const Axis<T>&x = s.box.x, &y = s.box.y;
  const int64_t Q = pr.pooled_w, bins = pr.pooled_h * Q;
  // Rows of a window are a whole row of the map apart, too far for hardware prefetchers.
  const int64_t next_row = pr.width * pr.channels;
  s.bins.assign(size_t(bins * step), T(0));
  const T* map = pr.features + s.box.batch * pr.height * pr.width * pr.channels + g.channel;
  Rows rows;
  for (int64_t i = y.begin(); i < y.end(); ++i) {
    rows.move_to(y, i);
    for (int64_t q = 0; q < Q; ++q) {
      const T* src = map + (i * pr.width + x.first[q]) * pr.channels;
      const T* weight = x.value.data() + x.start[q];
      Vec<T> t[NV] = {};
      for (int64_t k = 0; k < x.count[q]; ++k, src += pr.channels) {
        for (int v = 0; v < NV; ++v) {
          __builtin_prefetch(src + next_row + v * lanes);
          t[v] += weight[k] * load<T, PARTIAL>(src + v * lanes, g.used);
        }
      }
      for (int64_t p = rows.p0; p < rows.p1; ++p) {
        const T wy = y.value[y.start[p] + i - y.first[p]];
        T* acc = s.bins.data() + (p * Q + q) * step;
        for (int v = 0; v < NV; ++v) {
          T* a = acc + v * lanes;
          store<T, false>(a, load<T, false>(a, lanes) + wy * t[v], lanes);
        }
      }
    }
  }
  const int64_t channels = (NV - 1) * lanes + g.used;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t b = 0; b < bins; ++b) pooled[c * bins + b] = s.bins[b * step + c];
  }
}

// Gradient (channels, P * Q) of one box to (P * Q, channels).
template <typename T, int NV>
inline void transpose_grad(Scratch<T>& s, const Group<T>& g, int64_t bins, const T* grad) {
  constexpr int64_t lanes = Simd<T>::lanes, step = NV * lanes;
  const int64_t channels = (NV - 1) * lanes + g.used;
  s.bins.assign(size_t(bins * step), T(0));
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t b = 0; b < bins; ++b) s.bins[b * step + c] = grad[c * bins + b];
  }
}

template <typename T, int NV, bool PARTIAL>
EBM_TARGET void grad_box(const Problem<T>& pr, Scratch<T>& s, const Group<T>& g, const T* grad,
                         double* out) {
  constexpr int64_t lanes = Simd<T>::lanes, step = NV * lanes;
  const Axis<T>&x = s.box.x, &y = s.box.y;
  const int64_t Q = pr.pooled_w, next_row = pr.width * pr.channels;
  transpose_grad<T, NV>(s, g, pr.pooled_h * Q, grad);
  const T* map = pr.features + s.box.batch * pr.height * pr.width * pr.channels + g.channel;
  Vec<T> x1[NV] = {}, y1[NV] = {}, x2[NV] = {}, y2[NV] = {};
  Rows rows;
  for (int64_t i = y.begin(); i < y.end(); ++i) {
    rows.move_to(y, i);
    for (int64_t q = 0; q < Q; ++q) {
      const T* src = map + (i * pr.width + x.first[q]) * pr.channels;
      const int64_t at = x.start[q];
      Vec<T> t[NV] = {}, lo[NV] = {}, hi[NV] = {};  // the row pooled with V, dV/dx1, dV/dx2
      for (int64_t k = at; k < at + x.count[q]; ++k, src += pr.channels) {
        for (int v = 0; v < NV; ++v) {
          __builtin_prefetch(src + next_row + v * lanes);
          const Vec<T> f = load<T, PARTIAL>(src + v * lanes, g.used);
          t[v] += x.value[k] * f;
          lo[v] += x.lower[k] * f;
          hi[v] += x.upper[k] * f;
        }
      }
      for (int64_t p = rows.p0; p < rows.p1; ++p) {
        const int64_t w = y.start[p] + i - y.first[p];
        const T* gr = s.bins.data() + (p * Q + q) * step;
        for (int v = 0; v < NV; ++v) {
          const Vec<T> gv = load<T, false>(gr + v * lanes, lanes), gt = gv * t[v],
                       gw = y.value[w] * gv;
          x1[v] += gw * lo[v];
          x2[v] += gw * hi[v];
          y1[v] += y.lower[w] * gt;
          y2[v] += y.upper[w] * gt;
        }
      }
    }
  }
  for (int v = 0; v < NV; ++v) {
    for (int64_t l = 0; l < lanes; ++l) {
      out[0] += double(x1[v][l]);
      out[1] += double(y1[v][l]);
      out[2] += double(x2[v][l]);
      out[3] += double(y2[v][l]);
    }
  }
}

template <typename T, int NV, bool PARTIAL>
EBM_TARGET void spread_box(const Problem<T>& pr, Scratch<T>& s, const Group<T>& g, const T* grad,
                           T* grad_features, int64_t row_begin, int64_t row_end) {
  constexpr int64_t lanes = Simd<T>::lanes, step = NV * lanes;
  const Axis<T>&x = s.box.x, &y = s.box.y;
  const int64_t Q = pr.pooled_w;
  transpose_grad<T, NV>(s, g, pr.pooled_h * Q, grad);
  T* map = grad_features + s.box.batch * pr.height * pr.width * pr.channels + g.channel;
  Rows rows;
  for (int64_t i = std::max(row_begin, y.begin()); i < std::min(row_end, y.end()); ++i) {
    rows.move_to(y, i);
    for (int64_t q = 0; q < Q; ++q) {
      Vec<T> t[NV] = {};
      for (int64_t p = rows.p0; p < rows.p1; ++p) {
        const T wy = y.value[y.start[p] + i - y.first[p]];
        const T* gr = s.bins.data() + (p * Q + q) * step;
        for (int v = 0; v < NV; ++v) t[v] += wy * load<T, false>(gr + v * lanes, lanes);
      }
      T* dst = map + (i * pr.width + x.first[q]) * pr.channels;
      const T* weight = x.value.data() + x.start[q];
      for (int64_t k = 0; k < x.count[q]; ++k, dst += pr.channels) {
        for (int v = 0; v < NV; ++v) {
          T* d = dst + v * lanes;
          store<T, PARTIAL>(d, load<T, PARTIAL>(d, g.used) + weight[k] * t[v], g.used);
        }
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
void forward(const Problem<T>& pr, T* pooled, int64_t begin, int64_t end) {
  Scratch<T> s;
  const int64_t bins = pr.pooled_h * pr.pooled_w;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = pr.row(item % pr.num_rois);
    const Group<T> g = group<T>(pr.channels, item / pr.num_rois);
    T* out = pooled + (row * pr.channels + g.channel) * bins;
    s.box.build(pr, row, false);
    if (s.box.batch < 0) {
      const int64_t channels = (g.vectors - 1) * Simd<T>::lanes + g.used;
      std::fill(out, out + channels * bins, T(0));
    } else {
      EBM_FOR_GROUP(T, g, forward_box, pr, s, g, out);
    }
  }
}

template <typename T>
void grad_rois(const Problem<T>& pr, const T* grad, double* partial, int64_t begin, int64_t end) {
  Scratch<T> s;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = pr.row(item % pr.num_rois);
    const Group<T> g = group<T>(pr.channels, item / pr.num_rois);
    std::fill(partial + 4 * item, partial + 4 * item + 4, 0.0);
    s.box.build(pr, row, true);
    if (s.box.batch < 0) continue;
    const T* in = grad + (row * pr.channels + g.channel) * pr.pooled_h * pr.pooled_w;
    EBM_FOR_GROUP(T, g, grad_box, pr, s, g, in, partial + 4 * item);
  }
}

template <typename T>
void grad_features(const Problem<T>& pr, const T* grad, T* grad_features, int64_t bands,
                   int64_t begin, int64_t end) {
  Scratch<T> s;
  const int64_t count = groups<T>(pr.channels);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t band = item % bands, b = item / bands / count;
    const Group<T> g = group<T>(pr.channels, item / bands % count);
    const int64_t row_begin = pr.height * band / bands, row_end = pr.height * (band + 1) / bands;
    for (int64_t n = 0; n < pr.num_rois; ++n) {
      const int64_t row = pr.row(n);
      if (int64_t(pr.rois[5 * row]) != b) continue;
      s.box.build(pr, row, false);
      if (s.box.batch < 0 || s.box.y.end() <= row_begin || s.box.y.begin() >= row_end) continue;
      const T* in = grad + (row * pr.channels + g.channel) * pr.pooled_h * pr.pooled_w;
      EBM_FOR_GROUP(T, g, spread_box, pr, s, g, in, grad_features, row_begin, row_end);
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
