// Vectors of channels for one instruction set. A file of kernels includes this inside its innermost
// namespace, once per instruction set; see each_isa.h for EBM_FN and EBM_BYTES.

template <typename T>
struct Simd {
  typedef T Vec __attribute__((vector_size(EBM_BYTES)));
  static constexpr int64_t lanes = EBM_BYTES / int64_t(sizeof(T));
};
template <typename T>
using Vec = typename Simd<T>::Vec;

// PARTIAL: only the first `used` lanes exist in memory.
template <typename T, bool PARTIAL>
EBM_FN Vec<T> load(const T* p, int64_t used) {
  Vec<T> v = {};
  std::memcpy(&v, p, PARTIAL ? size_t(used) * sizeof(T) : sizeof(v));
  return v;
}

template <typename T, bool PARTIAL>
EBM_FN void store(T* p, Vec<T> v, int64_t used) {
  std::memcpy(p, &v, PARTIAL ? size_t(used) * sizeof(T) : sizeof(v));
}
