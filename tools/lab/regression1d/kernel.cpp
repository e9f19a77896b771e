// The y part of the 1D energy network, fused: values, and all first-order gradients.
//
//   h  = tanh(w_y y + b_y)          a1 = tanh(W_j h + c)        c: the x part and the bias
//   a2 = a1 + tanh(W_1 a1 + b_1)    a3 = a2 + tanh(W_2 a2 + b_2)        f = w_o a3 + b_o
//
// One row (one y) has 50 activations and 331 weights: far too few numbers to send through memory
// layer by layer. Blocks of rows go through the whole network in registers and the first-level
// cache; the backward pass computes the activations again, which is cheaper than reading them.
// Plain C interface, no torch headers: it compiles in a few seconds at first use (fused.py).
#include <cstdint>
#include <cstring>

namespace {

constexpr int H = 10;  // width of every layer
#ifdef __AVX512F__
constexpr int V = 16;  // floats per vector
#else
constexpr int V = 8;
#endif
typedef float vec __attribute__((vector_size(V * sizeof(float))));
typedef int32_t ivec __attribute__((vector_size(V * sizeof(int32_t))));

// Offsets into the weights of one model, in the order of fused.py.
constexpr int WY = 0, BY = WY + H, WJ = BY + H, W1 = WJ + H * H, B1 = W1 + H * H, W2 = B1 + H,
              B2 = W2 + H * H, WO = B2 + H, BO = WO + H, NUM_WEIGHTS = BO + 1;

inline vec splat(float x) { return vec{} + x; }

// 1 - 2 / (1 + e^2x), to an absolute error of 1.5e-7. NaN passes: comparisons with it are false.
inline vec tanh_of(vec x) {
  vec z = x * splat(2.8853900817779268f);  // 2 log2(e)
  z = z > 26.f ? splat(26.f) : z;
  z = z < -26.f ? splat(-26.f) : z;
  // Adding 1.5 * 2^23 rounds to an integer, and leaves that integer in the low bits.
  const vec shifted = z + splat(12582912.f);
  const vec r = z - (shifted - splat(12582912.f));
  // 2^r on [-1/2, 1/2]: its Taylor polynomial.
  vec p = splat(1.5403530e-4f);
  p = p * r + 1.33335581e-3f;
  p = p * r + 9.61812911e-3f;
  p = p * r + 5.55041087e-2f;
  p = p * r + 2.40226507e-1f;
  p = p * r + 6.93147181e-1f;
  p = p * r + 1.f;
  ivec bits, power;
  std::memcpy(&bits, &p, sizeof bits);
  std::memcpy(&power, &shifted, sizeof power);
  bits += power << 23;
  std::memcpy(&p, &bits, sizeof p);
  return 1.f - 2.f / (1.f + p);
}

template <int U>
using Rows = vec[H][U];  // one layer's activations of V * U rows

template <int U>
inline void load(vec (&rows)[U], const float* from, int64_t count) {
  for (int u = 0; u < U; ++u) rows[u] = vec{};
  std::memcpy(rows, from, size_t(count) * sizeof(float));
}

// out_i = bias_i + sum_j W_ij x_j, two outputs at a time so that x is read half as often.
template <int U>
inline void linear(Rows<U>& out, const float* w, const float* bias, const Rows<U>& x) {
  for (int i = 0; i < H; i += 2) {
    vec first[U], second[U];
    for (int u = 0; u < U; ++u) first[u] = splat(bias[i]), second[u] = splat(bias[i + 1]);
    for (int j = 0; j < H; ++j) {
      const vec wa = splat(w[i * H + j]), wb = splat(w[(i + 1) * H + j]);
      for (int u = 0; u < U; ++u) first[u] += wa * x[j][u], second[u] += wb * x[j][u];
    }
    for (int u = 0; u < U; ++u) out[i][u] = first[u], out[i + 1][u] = second[u];
  }
}

// d_j = keep * d_j + sum_i W_ij z_i
template <int U, bool keep>
inline void linear_transposed(Rows<U>& d, const float* w, const Rows<U>& z) {
  for (int j = 0; j < H; j += 2) {
    vec first[U], second[U];
    for (int u = 0; u < U; ++u) {
      first[u] = keep ? d[j][u] : vec{};
      second[u] = keep ? d[j + 1][u] : vec{};
    }
    for (int i = 0; i < H; ++i) {
      const vec wa = splat(w[i * H + j]), wb = splat(w[i * H + j + 1]);
      for (int u = 0; u < U; ++u) first[u] += wa * z[i][u], second[u] += wb * z[i][u];
    }
    for (int u = 0; u < U; ++u) d[j][u] = first[u], d[j + 1][u] = second[u];
  }
}

// gw_ij += z_i x_j and gb_i += z_i, kept apart for each of the V lanes.
template <int U>
inline void accumulate(vec* gw, vec* gb, const Rows<U>& z, const Rows<U>& x) {
  for (int i = 0; i < H; ++i) {
    vec sum[H];
    for (int j = 0; j < H; ++j) sum[j] = gw[i * H + j];
    for (int u = 0; u < U; ++u) {
      const vec zi = z[i][u];
      gb[i] += zi;
      for (int j = 0; j < H; ++j) sum[j] += zi * x[j][u];
    }
    for (int j = 0; j < H; ++j) gw[i * H + j] = sum[j];
  }
}

template <int U>
inline void derivative_of_tanh(Rows<U>& z, const Rows<U>& d, const Rows<U>& t) {
  for (int i = 0; i < H; ++i)
    for (int u = 0; u < U; ++u) z[i][u] = d[i][u] * (1.f - t[i][u] * t[i][u]);
}

template <int U>
inline void tanh_in_place(Rows<U>& x) {
  for (int i = 0; i < H; ++i)
    for (int u = 0; u < U; ++u) x[i][u] = tanh_of(x[i][u]);
}

template <int U>
struct Activations {
  vec y[U];
  Rows<U> h, a1, t2, a2, t3;
};

// All activations of `count` rows, and their f.
template <int U>
inline void run(Activations<U>& a, vec (&f)[U], const float* w, const float* c, const float* y,
                int64_t count) {
  load<U>(a.y, y, count);
  for (int i = 0; i < H; ++i)
    for (int u = 0; u < U; ++u) a.h[i][u] = w[WY + i] * a.y[u] + w[BY + i];
  tanh_in_place<U>(a.h);
  linear<U>(a.a1, w + WJ, c, a.h);
  tanh_in_place<U>(a.a1);
  linear<U>(a.t2, w + W1, w + B1, a.a1);
  tanh_in_place<U>(a.t2);
  for (int i = 0; i < H; ++i)
    for (int u = 0; u < U; ++u) a.a2[i][u] = a.a1[i][u] + a.t2[i][u];
  linear<U>(a.t3, w + W2, w + B2, a.a2);
  tanh_in_place<U>(a.t3);
  for (int u = 0; u < U; ++u) f[u] = splat(w[BO]);
  for (int i = 0; i < H; ++i)
    for (int u = 0; u < U; ++u) f[u] += w[WO + i] * (a.a2[i][u] + a.t3[i][u]);
}

template <int U>
inline void forward_block(float* out, const float* w, const float* c, const float* y,
                          int64_t count) {
  Activations<U> a;
  vec f[U];
  run<U>(a, f, w, c, y, count);
  std::memcpy(out, f, size_t(count) * sizeof(float));
}

// gw and gc are null where only the gradient with respect to y is wanted, grad_y where it is not.
template <int U>
inline void backward_block(vec* gw, vec* gc, float* grad_y, const float* w, const float* c,
                           const float* y, const float* grad, int64_t count) {
  Activations<U> a;
  vec f[U], g[U];
  run<U>(a, f, w, c, y, count);
  load<U>(g, grad, count);
  Rows<U> d, z;
  for (int i = 0; i < H; ++i)
    for (int u = 0; u < U; ++u) {
      d[i][u] = w[WO + i] * g[u];
      if (gw) gw[WO + i] += g[u] * (a.a2[i][u] + a.t3[i][u]);
    }
  derivative_of_tanh<U>(z, d, a.t3);
  if (gw) {
    for (int u = 0; u < U; ++u) gw[BO] += g[u];
    accumulate<U>(gw + W2, gw + B2, z, a.a2);
  }
  linear_transposed<U, true>(d, w + W2, z);
  derivative_of_tanh<U>(z, d, a.t2);
  if (gw) accumulate<U>(gw + W1, gw + B1, z, a.a1);
  linear_transposed<U, true>(d, w + W1, z);
  derivative_of_tanh<U>(z, d, a.a1);
  if (gw) accumulate<U>(gw + WJ, gc, z, a.h);
  linear_transposed<U, false>(d, w + WJ, z);
  derivative_of_tanh<U>(z, d, a.h);
  if (gw)
    for (int i = 0; i < H; ++i)
      for (int u = 0; u < U; ++u) gw[WY + i] += z[i][u] * a.y[u], gw[BY + i] += z[i][u];
  if (grad_y) {
    vec gy[U];
    for (int u = 0; u < U; ++u) gy[u] = vec{};
    for (int i = 0; i < H; ++i)
      for (int u = 0; u < U; ++u) gy[u] += w[WY + i] * z[i][u];
    std::memcpy(grad_y, gy, size_t(count) * sizeof(float));
  }
}

inline float sum_of(vec x) {
  float total = 0;
  for (int v = 0; v < V; ++v) total += x[v];
  return total;
}

constexpr int UNROLL = 4;  // vectors per full block; what remains of a target goes one by one

template <typename Full, typename Rest>
inline void over_blocks(int64_t points, Full full, Rest rest) {
  int64_t s = 0;
  for (; s + UNROLL * V <= points; s += UNROLL * V) full(s, int64_t(UNROLL * V));
  for (; s < points; s += V) rest(s, points - s < V ? points - s : int64_t(V));
}

}  // namespace

extern "C" {

int energy1d_num_weights() { return NUM_WEIGHTS; }

// f (E, B, S) of y (E, B, S), weights (E, NUM_WEIGHTS) and c (E, B, H), all contiguous.
void energy1d_forward(float* f, const float* y, const float* weights, const float* c,
                      int64_t models, int64_t targets, int64_t points) {
  for (int64_t n = 0; n < models * targets; ++n) {
    const float* w = weights + n / targets * NUM_WEIGHTS;
    const float *cn = c + n * H, *yn = y + n * points;
    float* fn = f + n * points;
    over_blocks(
        points,
        [&](int64_t s, int64_t count) { forward_block<UNROLL>(fn + s, w, cn, yn + s, count); },
        [&](int64_t s, int64_t count) { forward_block<1>(fn + s, w, cn, yn + s, count); });
  }
}

// Gradients for grad (E, B, S) = dL/df. Pass null for the ones that are not wanted: grad_weights
// (E, NUM_WEIGHTS) and grad_c (E, B, H) together, or grad_y (E, B, S).
void energy1d_backward(float* grad_weights, float* grad_c, float* grad_y, const float* grad,
                       const float* y, const float* weights, const float* c, int64_t models,
                       int64_t targets, int64_t points) {
  for (int64_t e = 0; e < models; ++e) {
    const float* w = weights + e * NUM_WEIGHTS;
    vec gw[NUM_WEIGHTS] = {};
    for (int64_t n = e * targets; n < (e + 1) * targets; ++n) {
      const float *cn = c + n * H, *yn = y + n * points, *gn = grad + n * points;
      float* gyn = grad_y ? grad_y + n * points : nullptr;
      vec gc[H] = {};
      vec* const gw_or_null = grad_weights ? gw : nullptr;
      over_blocks(
          points,
          [&](int64_t s, int64_t count) {
            backward_block<UNROLL>(gw_or_null, gc, gyn ? gyn + s : nullptr, w, cn, yn + s, gn + s,
                                   count);
          },
          [&](int64_t s, int64_t count) {
            backward_block<1>(gw_or_null, gc, gyn ? gyn + s : nullptr, w, cn, yn + s, gn + s,
                              count);
          });
      if (grad_weights)
        for (int i = 0; i < H; ++i) grad_c[n * H + i] = sum_of(gc[i]);
    }
    if (grad_weights)
      for (int i = 0; i < NUM_WEIGHTS; ++i) grad_weights[e * NUM_WEIGHTS + i] = sum_of(gw[i]);
  }
}

}  // extern "C"
