// Compiles the kernels of one operator for every instruction set. This file has no include guard:
// kernel.h of each operator includes it once, after it has defined
//   EBM_OPERATOR  the operator's namespace, which holds a `template <typename T> struct Kernels`,
//   EBM_KERNELS   the file of its vector code, as seen from here.
// EBM_KERNELS defines `template <typename T> Kernels<T> kernels()` in its own namespace and can use
//   EBM_ISA     that namespace,
//   EBM_TARGET  the function attribute that selects the instructions,
//   EBM_BYTES   the length of one vector,
//   EBM_FN      the attributes of a small helper.
// Every function needs the attribute: before GCC inlines a function, it lowers vector operations to
// that function's own target, so a helper without the attribute would use the oldest instructions.

#define EBM_FN EBM_TARGET __attribute__((always_inline)) inline

#define EBM_ISA portable
#define EBM_BYTES 16
#define EBM_TARGET
#include EBM_KERNELS
#undef EBM_ISA
#undef EBM_BYTES
#undef EBM_TARGET

#if defined(__x86_64__) && defined(__GNUC__)
#define EBM_HAS_X86 1
#define EBM_ISA avx2
#define EBM_BYTES 32
#define EBM_TARGET __attribute__((target("avx2,fma")))
#include EBM_KERNELS
#undef EBM_ISA
#undef EBM_BYTES
#undef EBM_TARGET

#define EBM_ISA avx512
#define EBM_BYTES 64
#define EBM_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#include EBM_KERNELS
#undef EBM_ISA
#undef EBM_BYTES
#undef EBM_TARGET
#endif

namespace ebm_ops {
namespace EBM_OPERATOR {

// Every variant this processor can run, slowest first.
template <typename T>
std::vector<Kernels<T>> available_kernels() {
  std::vector<Kernels<T>> all{portable::kernels<T>()};
#ifdef EBM_HAS_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    all.push_back(avx2::kernels<T>());
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    all.push_back(avx512::kernels<T>());
  }
#endif
  return all;
}

template <typename T>
const Kernels<T>& best_kernels() {
  static const Kernels<T> best = available_kernels<T>().back();
  return best;
}

}  // namespace EBM_OPERATOR
}  // namespace ebm_ops

#undef EBM_FN
#undef EBM_HAS_X86
#undef EBM_OPERATOR
#undef EBM_KERNELS
