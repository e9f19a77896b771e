// Runs the CPU kernels of pooling on rotated grids on random nasty cases; meant for a build under
// AddressSanitizer and UndefinedBehaviorSanitizer. Every array has exactly its size, so that one
// element too many is seen. Each variant for this processor is compared with the portable one in
// double, in values and (the sanitizers' business) in what it touches.
//
// Usage: rotated_grid_pool_fuzz CASES SEED
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>

#include "kernel.h"

using namespace ebm_ops::rotated_grid_pool;

namespace {

std::mt19937_64 rng;

int64_t integer(int64_t lo, int64_t hi) {
  return std::uniform_int_distribution<int64_t>(lo, hi)(rng);
}
double real(double lo, double hi) { return std::uniform_real_distribution<double>(lo, hi)(rng); }

// A number that is seldom what it should be, else one of lo .. hi. Never quite on a kink, where
// one rounding or another decides on the derivative; the integers are the edges of the map.
double nasty(double lo, double hi) {
  const double inf = std::numeric_limits<double>::infinity();
  switch (integer(0, 39)) {
    case 0: return std::nan("");
    case 1: return integer(0, 1) ? inf : -inf;
    case 2: return real(-1, 1) * 1e9;
    case 3: return integer(0, 1) ? 1e38 : -1e38;
    case 4: return 0;
    default: return real(lo, hi);
  }
}

// Values of all three functions, one array each of exactly the right size.
template <typename T>
struct Result {
  std::unique_ptr<T[]> pooled, by_bev, by_boxes;
};

struct Case {
  int64_t batch, channels, height, width, rows, columns, samples, count;
  double x0, y0, cell, offset;
  std::vector<double> bev, boxes, grad, tangent;
  std::vector<int64_t> images;
  bool with_tangent;

  int64_t pooled_size() const { return count * channels * rows * columns; }
  int64_t map_size() const { return batch * channels * height * width; }
};

Case random_case() {
  Case c;
  c.batch = integer(1, 2);
  c.channels = integer(0, 9) ? integer(1, 20) : integer(60, 150);
  c.height = integer(0, 19) ? integer(1, 14) : 0;
  c.width = integer(0, 19) ? integer(1, 14) : 0;
  c.rows = integer(1, 4), c.columns = integer(1, 7);
  c.samples = integer(0, 2);
  c.count = integer(0, 5);
  c.cell = integer(0, 1) ? 0.4 : real(0.01, 3);
  c.x0 = real(-20, 20), c.y0 = real(-20, 20), c.offset = real(-0.5, 0.5);
  c.with_tangent = integer(0, 1);
  c.bev.resize(size_t(c.map_size()));
  c.grad.resize(size_t(c.pooled_size()));
  c.tangent.resize(size_t(5 * c.count));
  for (auto* values : {&c.bev, &c.grad, &c.tangent}) {
    for (auto& v : *values) v = double(float(real(-1, 1)));
  }
  for (int64_t n = 0; n < c.count; ++n) {
    const double w = double(c.width) * c.cell, h = double(c.height) * c.cell;
    c.images.push_back(integer(0, c.batch - 1));
    for (double v : {c.x0 + nasty(-2 * c.cell, w + 2 * c.cell),
                     c.y0 + nasty(-2 * c.cell, h + 2 * c.cell), nasty(0, w), nasty(0, h / 2),
                     nasty(-4, 4)}) {
      c.boxes.push_back(double(float(v)));  // what float32 holds, so that both see the same box
    }
  }
  return c;
}

template <typename T, typename From>
std::unique_ptr<T[]> exact(const std::vector<From>& values) {
  auto copy = std::make_unique<T[]>(values.size());
  for (size_t i = 0; i < values.size(); ++i) copy[i] = T(values[i]);
  return copy;
}

// Calls f on two pieces of 0 .. total, as threads would.
template <typename F>
void in_pieces(int64_t total, F f) {
  const int64_t cut = total ? integer(0, total) : 0;
  f(cut, total);
  f(int64_t(0), cut);
}

template <typename T>
Result<T> run(const Case& c, const Kernels<T>& k) {
  const auto bev = exact<T>(c.bev), boxes = exact<T>(c.boxes), grad = exact<T>(c.grad),
             tangent = exact<T>(c.tangent);
  const auto images = exact<int64_t>(c.images);
  const Problem<T> pr{bev.get(), boxes.get(), images.get(),
                      c.with_tangent ? tangent.get() : nullptr, c.count, c.batch, c.channels,
                      c.height, c.width, c.rows, c.columns, c.samples, c.x0, c.y0, c.cell,
                      c.offset};
  const int64_t blocks = k.blocks(c.channels), bands = integer(1, std::max<int64_t>(c.height, 1));
  Result<T> r{std::make_unique<T[]>(size_t(c.pooled_size())),
              std::make_unique<T[]>(size_t(c.map_size())),
              std::make_unique<T[]>(size_t(c.count * 5))};
  in_pieces(c.count, [&](int64_t b, int64_t e) { k.forward(pr, r.pooled.get(), b, e); });
  in_pieces(c.count, [&](int64_t b, int64_t e) {
    k.grad_boxes(pr, grad.get(), r.by_boxes.get(), b, e);
  });
  in_pieces(c.batch * blocks * bands, [&](int64_t b, int64_t e) {
    k.grad_bev(pr, grad.get(), r.by_bev.get(), bands, b, e);
  });
  return r;
}

template <typename A, typename B>
void compare(const char* what, int64_t number, int64_t size, const A* a, const B* b, double tol) {
  double largest = 1;
  for (int64_t i = 0; i < size; ++i) largest = std::max(largest, std::abs(double(b[i])));
  for (int64_t i = 0; i < size; ++i) {
    // Written so that a NaN fails.
    if (!(std::abs(double(a[i]) - double(b[i])) <= tol * largest)) {
      std::printf("case %lld: %s[%lld] is %.9g, expected %.9g\n", (long long)number, what,
                  (long long)i, double(a[i]), double(b[i]));
      std::exit(1);
    }
  }
}

template <typename T>
void check(const Case& c, int64_t number, const Result<double>& expected, double tolerance) {
  for (const auto& kernels : available_kernels<T>()) {
    const auto r = run(c, kernels);
    compare("pooled", number, c.pooled_size(), r.pooled.get(), expected.pooled.get(), tolerance);
    compare("grad_bev", number, c.map_size(), r.by_bev.get(), expected.by_bev.get(), tolerance);
    compare("grad_boxes", number, c.count * 5, r.by_boxes.get(), expected.by_boxes.get(),
            tolerance);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t cases = argc > 1 ? std::atoll(argv[1]) : 1000;
  rng.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0);
  for (int64_t number = 0; number < cases; ++number) {
    const Case c = random_case();
    const auto expected = run(c, available_kernels<double>().front());
    check<double>(c, number, expected, 1e-10);
    check<float>(c, number, expected, 1e-4);
  }
  std::printf("ok: %lld cases, %zu variants\n", (long long)cases,
              available_kernels<float>().size());
  return 0;
}
