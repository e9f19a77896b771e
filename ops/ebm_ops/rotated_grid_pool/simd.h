// The vector code of pooling on rotated grids, included once per instruction set by each_isa.h.

namespace ebm_ops {
namespace rotated_grid_pool {
namespace EBM_ISA {

#include "../vector.h"

#include "../transpose.h"

// Vectors of channels that are processed together.
constexpr int64_t kVectors = 4;

// One item of the gradient to the map handles one block of channels.
template <typename T>
inline int64_t blocks(int64_t channels) {
  constexpr int64_t size = kVectors * Simd<T>::lanes;
  return (channels + size - 1) / size;
}

// Per-thread memory, reused from box to box.
template <typename T>
struct Scratch {
  Box<T> box;
  std::vector<Tap<T>> taps;
  std::vector<int64_t> first;  // first tap of each bin; the last entry is the number of taps
  std::vector<T> bins;         // (bins, channels): a pooled tensor or its gradient
  std::vector<T> zeros;        // the channels of a pixel outside the map
};

// Calls f<NV, PARTIAL>(channel, used) for pieces of the channels 0 .. count - 1.
#define EBM_FOR_CHANNELS(T, count, f, ...)                                     \
  do {                                                                         \
    constexpr int64_t lanes_ = Simd<T>::lanes, step_ = kVectors * lanes_;      \
    int64_t c_ = 0;                                                            \
    for (; c_ + step_ <= (count); c_ += step_)                                 \
      f<T, kVectors, false>(c_, lanes_, __VA_ARGS__);                          \
    for (; c_ + lanes_ <= (count); c_ += lanes_)                               \
      f<T, 1, false>(c_, lanes_, __VA_ARGS__);                                 \
    if (c_ < (count)) f<T, 1, true>(c_, (count) - c_, __VA_ARGS__);            \
  } while (0)

template <typename T, int NV, bool PARTIAL>
EBM_FN void gather(int64_t c, int64_t used, const T* image, const Tap<T>* tap, const Tap<T>* end,
                   T* out) {
  constexpr int64_t lanes = Simd<T>::lanes;
  Vec<T> sum[NV] = {};
  for (; tap != end; ++tap) {
    const T* src = image + tap->start + c;
    for (int v = 0; v < NV; ++v) sum[v] += tap->weight * load<T, PARTIAL>(src + v * lanes, used);
  }
  for (int v = 0; v < NV; ++v) store<T, PARTIAL>(out + c + v * lanes, sum[v], used);
}

template <typename T>
EBM_TARGET void forward(const Problem<T>& pr, T* pooled, int64_t begin, int64_t end) {
  Scratch<T> s;
  const int64_t channels = pr.channels, bins = pr.bins();
  s.bins.resize(size_t(bins * channels));
  for (int64_t n = begin; n < end; ++n) {
    T* out = pooled + n * channels * bins;
    s.box.build(pr, n);
    if (s.box.samples.empty()) {
      std::fill(out, out + channels * bins, T(0));
      continue;
    }
    s.box.taps(pr, s.taps, s.first);
    const T* image = pr.bev + pr.images[n] * pr.height * pr.width * channels;
    for (int64_t b = 0; b < bins; ++b) {
      const Tap<T>*first = s.taps.data() + s.first[b], *last = s.taps.data() + s.first[b + 1];
      EBM_FOR_CHANNELS(T, channels, gather, image, first, last, s.bins.data() + b * channels);
    }
    transpose(s.bins.data(), channels, bins, channels, out, bins);
  }
}

template <typename T, int NV, bool PARTIAL>
EBM_FN void slopes(int64_t c, int64_t used, const T* g, const T* f00, const T* f10, const T* f01,
                   const T* f11, Vec<T> (&e)[3]) {
  for (int v = 0; v < NV; ++v, c += Simd<T>::lanes) {
    const Vec<T> gv = load<T, PARTIAL>(g + c, used), v00 = load<T, PARTIAL>(f00 + c, used),
                 v01 = load<T, PARTIAL>(f01 + c, used);
    e[0] += gv * (load<T, PARTIAL>(f10 + c, used) - v00);
    e[1] += gv * (load<T, PARTIAL>(f11 + c, used) - v01);
    e[2] += gv * (v01 - v00);
  }
}

// Sum over the lanes, pairwise.
template <typename T>
EBM_FN double total(Vec<T> vector) {
  T lane[Simd<T>::lanes];
  std::memcpy(lane, &vector, sizeof(vector));
  for (int64_t half = Simd<T>::lanes / 2; half > 0; half /= 2) {
    for (int64_t k = 0; k < half; ++k) lane[k] += lane[k + half];
  }
  return double(lane[0]);
}

template <typename T>
EBM_TARGET void grad_boxes(const Problem<T>& pr, const T* grad, T* grad_boxes, int64_t begin,
                           int64_t end) {
  Scratch<T> s;
  const int64_t channels = pr.channels, bins = pr.bins();
  s.bins.resize(size_t(bins * channels));
  s.zeros.assign(size_t(channels), T(0));
  for (int64_t n = begin; n < end; ++n) {
    double out[5] = {};
    s.box.build(pr, n);
    if (!s.box.samples.empty()) {
      transpose(grad + n * channels * bins, bins, channels, bins, s.bins.data(), channels);
    }
    const T* image = pr.bev + pr.images[n] * pr.height * pr.width * channels;
    const auto pixel = [&](int64_t i, int64_t j) {
      const bool inside = i >= 0 && i < pr.height && j >= 0 && j < pr.width;
      return inside ? image + (i * pr.width + j) * channels : s.zeros.data();
    };
    for (const Sample& k : s.box.samples) {
      const T* g = s.bins.data() + k.bin * channels;
      const T*f00 = pixel(k.i, k.j), *f10 = pixel(k.i, k.j + 1), *f01 = pixel(k.i + 1, k.j),
             *f11 = pixel(k.i + 1, k.j + 1);
      Vec<T> e[3] = {};
      EBM_FOR_CHANNELS(T, channels, slopes, g, f00, f10, f01, f11, e);
      s.box.add_gradient(pr, k, {total<T>(e[0]), total<T>(e[1]), total<T>(e[2])}, out);
    }
    for (int k = 0; k < 5; ++k) grad_boxes[5 * n + k] = T(out[k]);
  }
}

template <typename T, int NV, bool PARTIAL>
EBM_FN void spread(int64_t c, int64_t used, const T* g, T weight, T* pixel) {
  for (int v = 0; v < NV; ++v, c += Simd<T>::lanes) {
    store<T, PARTIAL>(pixel + c, load<T, PARTIAL>(pixel + c, used) +
                                     weight * load<T, PARTIAL>(g + c, used), used);
  }
}

template <typename T>
EBM_TARGET void grad_bev(const Problem<T>& pr, const T* grad, T* grad_bev, int64_t bands,
                         int64_t begin, int64_t end) {
  Scratch<T> s;
  const int64_t count = blocks<T>(pr.channels), bins = pr.bins();
  for (int64_t item = begin; item < end; ++item) {
    const int64_t band = item % bands, block = item / bands % count, image = item / bands / count;
    const int64_t row_begin = pr.height * band / bands, row_end = pr.height * (band + 1) / bands;
    // Whole vectors are distributed evenly (6 become 3 + 3), so that threads get equal work.
    constexpr int64_t lanes = Simd<T>::lanes;
    const int64_t vectors = (pr.channels + lanes - 1) / lanes;
    const int64_t channel = vectors * block / count * lanes;
    const int64_t channels =
        std::min(vectors * (block + 1) / count * lanes, pr.channels) - channel;
    T* map = grad_bev + image * pr.height * pr.width * pr.channels + channel;
    s.bins.resize(size_t(bins * channels));
    for (int64_t n = 0; n < pr.num_boxes; ++n) {
      if (pr.images[n] != image) continue;
      s.box.build(pr, n);
      if (s.box.samples.empty()) continue;
      s.box.taps(pr, s.taps, s.first);
      transpose(grad + (n * pr.channels + channel) * bins, bins, channels, bins, s.bins.data(),
                channels);
      for (int64_t b = 0; b < bins; ++b) {
        const T* g = s.bins.data() + b * channels;
        for (int64_t t = s.first[b]; t < s.first[b + 1]; ++t) {
          const Tap<T>& tap = s.taps[t];
          if (tap.row < row_begin || tap.row >= row_end) continue;
          EBM_FOR_CHANNELS(T, channels, spread, g, tap.weight, map + tap.start);
        }
      }
    }
  }
}

template <typename T>
Kernels<T> kernels() {
  return {blocks<T>, forward<T>, grad_boxes<T>, grad_bev<T>};
}

}  // namespace EBM_ISA
}  // namespace rotated_grid_pool
}  // namespace ebm_ops

#undef EBM_FOR_CHANNELS
