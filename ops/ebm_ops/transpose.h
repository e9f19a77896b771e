// Transposition between (bins, channels), in which kernels compute, and (channels, bins), the layout of
// pooled tensors. Included after vector.h, once per instruction set.

// Elements of a, then b, by their numbers: one instruction for each shuffle below.
#if defined(__clang__) || __GNUC__ >= 12
#define EBM_SHUFFLE(Index, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define EBM_SHUFFLE(Index, a, b, ...) \
  __builtin_shuffle(a, b, Index __attribute__((vector_size(16))){__VA_ARGS__})
#endif

// A square of 16 bytes a side, through registers.
EBM_FN void transpose_square(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  typedef float V __attribute__((vector_size(16)));
  V r[4];
  for (int64_t k = 0; k < 4; ++k) std::memcpy(&r[k], in + k * in_stride, 16);
  const V a = EBM_SHUFFLE(int32_t, r[0], r[1], 0, 4, 1, 5);
  const V b = EBM_SHUFFLE(int32_t, r[0], r[1], 2, 6, 3, 7);
  const V c = EBM_SHUFFLE(int32_t, r[2], r[3], 0, 4, 1, 5);
  const V d = EBM_SHUFFLE(int32_t, r[2], r[3], 2, 6, 3, 7);
  r[0] = EBM_SHUFFLE(int32_t, a, c, 0, 1, 4, 5), r[1] = EBM_SHUFFLE(int32_t, a, c, 2, 3, 6, 7);
  r[2] = EBM_SHUFFLE(int32_t, b, d, 0, 1, 4, 5), r[3] = EBM_SHUFFLE(int32_t, b, d, 2, 3, 6, 7);
  for (int64_t k = 0; k < 4; ++k) std::memcpy(out + k * out_stride, &r[k], 16);
}

EBM_FN void transpose_square(const double* in, int64_t in_stride, double* out,
                             int64_t out_stride) {
  typedef double V __attribute__((vector_size(16)));
  V a, b;
  std::memcpy(&a, in, 16), std::memcpy(&b, in + in_stride, 16);
  const V c = EBM_SHUFFLE(int64_t, a, b, 0, 2), d = EBM_SHUFFLE(int64_t, a, b, 1, 3);
  std::memcpy(out, &c, 16), std::memcpy(out + out_stride, &d, 16);
}

// out[c * out_stride + r] = in[r * in_stride + c], a cache line of columns at a time.
template <typename T>
EBM_FN void transpose(const T* in, int64_t in_stride, int64_t rows, int64_t columns, T* out,
                      int64_t out_stride) {
  constexpr int64_t side = 16 / int64_t(sizeof(T)), line = 4 * side;
  const int64_t whole_rows = rows - rows % side, whole_columns = columns - columns % side;
  for (int64_t begin = 0; begin < whole_columns; begin += line) {
    const int64_t end = std::min(begin + line, whole_columns);
    for (int64_t r = 0; r < whole_rows; r += side) {
      for (int64_t c = begin; c < end; c += side) {
        transpose_square(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
      }
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c) {
      out[c * out_stride + r] = in[r * in_stride + c];
    }
  }
}

#undef EBM_SHUFFLE
