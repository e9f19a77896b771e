// Runs the CPU kernels of precise RoI pooling on random nasty cases; meant for a build under
// AddressSanitizer and UndefinedBehaviorSanitizer. Every array has exactly its size, so that one
// element too many is seen. Each variant for this processor is compared with the portable one in
// double, in values and (the sanitizers' business) in what it touches.
//
// Usage: prroi_pool_fuzz CASES SEED
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>

#include "kernel.h"

using namespace ebm_ops::prroi_pool;

namespace {

std::mt19937_64 rng;

int64_t integer(int64_t lo, int64_t hi) {
  return std::uniform_int_distribution<int64_t>(lo, hi)(rng);
}
double real(double lo, double hi) { return std::uniform_real_distribution<double>(lo, hi)(rng); }

double nasty_coordinate(double extent) {
  const double inf = std::numeric_limits<double>::infinity();
  switch (integer(0, 15)) {
    case 0: return std::nan("");
    case 1: return integer(0, 1) ? inf : -inf;
    case 2: return real(-1, 1) * 1e9;
    case 3: return integer(0, 1) ? 1e38 : -1e38;
    case 4: return double(integer(-2, 20));
    case 5: return extent;
    case 6: return 0;
    default: return real(-0.5 * extent - 3, 1.5 * extent + 3);
  }
}

// Values of all three functions, one array each of exactly the right size.
template <typename T>
struct Result {
  std::unique_ptr<T[]> pooled, by_features, by_rois;
};

struct Case {
  int64_t batch, channels, height, width, pooled_h, pooled_w, count;
  double scale;
  std::vector<double> features, rois, grad;
  bool all;                   // else only the boxes in these rows are on the map
  std::vector<int64_t> rows;

  int64_t pooled_size() const { return count * channels * pooled_h * pooled_w; }
  int64_t map_size() const { return batch * channels * height * width; }
};

Case random_case() {
  Case c;
  c.batch = integer(1, 2);
  c.channels = integer(0, 9) ? integer(1, 20) : integer(60, 150);
  c.height = integer(0, 19) ? integer(1, 14) : 0;
  c.width = integer(0, 19) ? integer(1, 14) : 0;
  c.pooled_h = integer(1, 7), c.pooled_w = integer(1, 7);
  c.count = integer(0, 5);
  c.scale = integer(0, 1) ? 0.125 : real(0.01, 3);
  c.features.resize(size_t(c.map_size()));
  c.grad.resize(size_t(c.pooled_size()));
  for (auto* values : {&c.features, &c.grad}) {
    for (auto& v : *values) v = real(-1, 1);
  }
  for (int64_t n = 0; n < c.count; ++n) {
    const double w = double(c.width) / c.scale, h = double(c.height) / c.scale;
    double box[5] = {double(integer(0, c.batch - 1)), nasty_coordinate(w), nasty_coordinate(h),
                     nasty_coordinate(w), nasty_coordinate(h)};
    if (integer(0, 3) && box[1] > box[3]) std::swap(box[1], box[3]);
    if (integer(0, 3) && box[2] > box[4]) std::swap(box[2], box[4]);
    if (!integer(0, 15)) box[3] = box[1];
    if (!integer(0, 7)) box[4] = box[2] + std::pow(10.0, real(-8, 0));
    // What float32 holds, so that both dtypes see the same box.
    for (double v : box) c.rois.push_back(double(float(v)));
  }
  c.all = integer(0, 1);
  for (int64_t n = 0; n < c.count; ++n) {
    if (integer(0, 1)) c.rows.push_back(n);
  }
  return c;
}

template <typename T, typename V>
std::unique_ptr<T[]> exact(const std::vector<V>& values) {
  auto copy = std::make_unique<T[]>(values.size());
  for (size_t i = 0; i < values.size(); ++i) copy[i] = T(values[i]);
  return copy;
}

// Calls f on two or three pieces of 0 .. total, as threads would.
template <typename F>
void in_pieces(int64_t total, F f) {
  const int64_t cut = total ? integer(0, total) : 0;
  f(cut, total);
  f(int64_t(0), cut);
}

template <typename T>
Result<T> run(const Case& c, const Kernels<T>& k) {
  const auto features = exact<T>(c.features), rois = exact<T>(c.rois), grad = exact<T>(c.grad);
  const auto rows = exact<int64_t>(c.rows);
  const int64_t count = c.all ? c.count : int64_t(c.rows.size());
  const Problem<T> pr{features.get(), rois.get(), count,      c.batch,
                      c.channels,     c.height,   c.width,    c.pooled_h,
                      c.pooled_w,     c.scale,    c.all ? nullptr : rows.get()};
  const int64_t groups = k.groups(c.channels), bands = integer(1, std::max<int64_t>(c.height, 1));
  const int64_t parts = integer(1, groups + 1);
  Result<T> r{std::make_unique<T[]>(size_t(c.pooled_size())),
              std::make_unique<T[]>(size_t(c.map_size())),
              std::make_unique<T[]>(size_t(c.count * 5))};
  in_pieces(count, [&](int64_t b, int64_t e) { k.forward(pr, r.pooled.get(), b, e); });
  in_pieces(count,
            [&](int64_t b, int64_t e) { k.grad_rois(pr, grad.get(), r.by_rois.get(), b, e); });
  in_pieces(c.batch * parts * bands, [&](int64_t b, int64_t e) {
    k.grad_features(pr, grad.get(), r.by_features.get(), parts, bands, b, e);
  });
  return r;
}

template <typename A, typename B>
void compare(const char* what, int64_t number, int64_t size, const A* a, const B* b, double tol) {
  for (int64_t i = 0; i < size; ++i) {
    // Written so that a NaN fails.
    if (!(std::abs(double(a[i]) - double(b[i])) <= tol * (1 + std::abs(double(b[i]))))) {
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
    compare("grad_features", number, c.map_size(), r.by_features.get(),
            expected.by_features.get(), tolerance);
    compare("grad_rois", number, c.count * 5, r.by_rois.get(), expected.by_rois.get(),
            tolerance * 100);
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
