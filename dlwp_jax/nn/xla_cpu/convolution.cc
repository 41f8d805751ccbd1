// Convolutions of float32 arrays, channels last, and their gradients, as calls of XLA:CPU that
// run on its threads.
//
// Every spatial axis is described by an `Axis`, the same for a convolution and for the gradient
// with respect to its input, so both are `gather`: a result is a sum over the window. The
// gradient with respect to the kernel is `scatter`: each place adds to all taps of the window.
// A picture is an array of depth 1.
//
// In the inner loops a register holds neighbouring output channels, and the sums of several
// places or taps stay in registers. If the output has so few channels that they fill half a
// register, two examples share it (`P` is 2): lane 2 o + p belongs to channel o of example p.
//
// The shapes alone decide how the work is divided, and sums of parts are added in a fixed
// order, so the result has the same bits however the threads are scheduled.
#include <algorithm>
#include <array>
#include <atomic>
#include <climits>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kSums = 28;  // of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8, kSums = 12;  // of 16
#else
constexpr int kLanes = 4, kSums = 12;
#endif
constexpr int kTasks = 16;        // into which a call is divided, at most
constexpr int kSource = 1 << 16;  // floats of a plane of the source that a task holds

typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int64_t Pairs __attribute__((vector_size(4 * kLanes)));

Lanes load(const float* from) {
  Lanes lanes;
  memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The product of `b` and P floats, which are repeated over the lanes.
template <int P>
Lanes times(const float* a, Lanes b) {
  if constexpr (P == 1) return *a * b;
  int64_t pair;  // integers, since a double of these bits could be a NaN
  memcpy(&pair, a, sizeof pair);
  return (Lanes)(Pairs{} + pair) * b;
}

// From lanes 2 o + p to lanes p kLanes / 2 + o.
template <size_t... I>
Lanes unpair(Lanes v, std::index_sequence<I...>) {
  return __builtin_shufflevector(v, v, (2 * I % kLanes + 2 * I / kLanes)...);
}

// Calls f with the constant n, which is one of 1 ... N.
template <int N, class F>
void with_constant(int n, F f) {
  if (n == N) return f(std::integral_constant<int, N>());
  if constexpr (N > 1) with_constant<N - 1>(n, f);
}

// Calls f(begin, T) for pieces of about equal length T of 0 ... n - 1, with V registers each.
template <int V, class F>
void in_pieces(int n, F f) {
  constexpr int kMost = std::min(kSums / V, 16);
  for (int i = 0, pieces = ceil_div(n, kMost); i < pieces; i++) {
    int begin = n * i / pieces, length = n * (i + 1) / pieces - begin;
    with_constant<kMost>(length, [&](auto t) { f(begin, t); });
  }
}

// Calls f(0) ... f(n - 1) on the threads of the pool and on this one.
template <class Pool, class F>
void parallel(Pool& pool, int n, F f) {
  struct Work {
    int n;
    F f;
    std::atomic<int> next{0}, done{0};
    Work(int n, F f) : n(n), f(f) {}
    void run() {
      for (int i; (i = next.fetch_add(1)) < n; done.fetch_add(1)) f(i);
    }
  };
  // Shared, since a thread of the pool may come when all is done.
  auto work = std::make_shared<Work>(n, f);
  int helpers = std::min<int>(pool.num_threads(), n) - 1;
  for (int i = 0; i < helpers; i++) pool.Schedule([work] { work->run(); });
  work->run();
  for (int spins = 0; work->done.load() < n; spins++) {
    if (spins > 2000) std::this_thread::yield();
  }
}

// Result `first + step * q` is a sum over places `stride * q + offset + t` of the source, each
// multiplied by tap `tap + next * t` of the kernel; q < count, t < taps.
struct Axis {
  int source, result, count, first, step, stride, offset, taps, tap, next;
};

// A convolution over one axis: input place p meets output place i and tap j if
// p + low = stride * i + j.
struct Spatial {
  int in, out, window, stride, low;

  Axis forward() const { return {in, out, out, 0, 1, stride, -low, window, 0, 1}; }

  // The gradient with respect to the input, at the places p = phase + stride * q: the taps that
  // meet them are `stride` apart.
  Axis backward(int phase) const {
    int count = std::max(0, ceil_div(in - phase, stride)), rest = (phase + low) % stride;
    int taps = std::max(0, ceil_div(window - rest, stride)), last = rest + stride * (taps - 1);
    int offset = (phase + low) / stride - taps + 1;
    return {out, in, count, phase, stride, 1, offset, taps, last, -stride};
  }
};

struct Axes {
  Axis d, h, w;

  // So many rows that the source of a task fits into a cache.
  int rows_in_block(int channels) const {
    int row = std::max(1, h.stride * ((w.count - 1) * w.stride + w.taps) * channels);
    return ceil_div(h.count, ceil_div(h.count, std::clamp(kSource / row, 1, h.count)));
  }
};

// The numbers that a call comes with, in this order.
struct Shape {
  int examples, in, out;
  Spatial d, h, w;

  bool has_pairs(int channels) const { return examples > 1 && channels <= kLanes / 2; }
};

// Blocks of rows, one depth after the other, of P examples.
struct Items {
  int depths, bands, n;
  Items(const Axes& a, int groups, int rows)
      : depths(a.d.count), bands(ceil_div(a.h.count, rows)), n(groups * bands * depths) {}

  // Calls f(group, band, depth) for part i of m.
  template <class F>
  void part(int i, int m, F f) const {
    int end = (int64_t)n * (i + 1) / m;
    for (int item = (int64_t)n * i / m; item < end; item++) {
      f(item / depths / bands, item / depths % bands, item % depths);
    }
  }
};

// The rows of the source that the windows of a block of rows meet, with zeros around them and P
// examples side by side. Planes are kept for the next depth.
template <int P>
class Source {
 public:
  int rows;  // in a plane of the table

  // `channels` of `all` channels, from `channel` on; zeros fill them up to `padded`.
  Source(const float* x, int examples, const Axes& axes, int all, int channel, int channels,
         int padded, int block)
      : rows((block - 1) * axes.h.stride + axes.h.taps), x_(x), examples_(examples), a_(axes),
        all_(all), channel_(channel), channels_(channels), padded_(padded),
        width_((a_.w.count - 1) * a_.w.stride + a_.w.taps), kept_(a_.d.taps, INT_MIN),
        table_((size_t)a_.d.taps * rows) {
    is_direct_ = P == 1 && channels == all && padded == all && a_.w.offset >= 0 &&
                 a_.w.offset + width_ <= a_.w.source;
    size_ = (size_t)rows * width_ * padded * P;
    buffer_.resize(is_direct_ ? (size_t)width_ * all : size_ * a_.d.taps);
  }

  // A table of pointers to the rows, for the result's row q and the rows that follow.
  const float* const* at(int group, int depth, int q) {
    if (group != group_ || q != q_) std::fill(kept_.begin(), kept_.end(), INT_MIN);
    group_ = group, q_ = q;
    for (int t = 0; t < a_.d.taps; t++) {
      int z = depth * a_.d.stride + a_.d.offset + t;
      int slot = (z % a_.d.taps + a_.d.taps) % a_.d.taps;
      bool is_kept = std::exchange(kept_[slot], z) == z;
      for (int r = 0; r < rows; r++) {
        int y = q * a_.h.stride + a_.h.offset + r;
        bool is_inside = z >= 0 && z < a_.d.source && y >= 0 && y < a_.h.source;
        float* to = buffer_.data() + (is_direct_ ? 0 : (slot * rows + r) * (size_ / rows));
        table_[t * rows + r] = to;
        if (!is_direct_ && !is_kept) fill(to, group, z, y, is_inside);
        if (is_direct_ && is_inside) table_[t * rows + r] = place(group, z, y, a_.w.offset);
      }
    }
    return table_.data();
  }

 private:
  const float* place(int example, int z, int y, int w) const {
    size_t row = ((size_t)example * a_.d.source + z) * a_.h.source + y;
    return x_ + (row * a_.w.source + w) * all_;
  }

  void fill(float* to, int group, int z, int y, bool is_inside) const {
    int begin = std::clamp(-a_.w.offset, 0, width_);
    int end = is_inside ? std::clamp(a_.w.source - a_.w.offset, begin, width_) : begin;
    size_t unit = (size_t)padded_ * P;
    std::fill(to, to + begin * unit, 0.f);
    std::fill(to + end * unit, to + width_ * unit, 0.f);
    if (begin == end) return;
    to += begin * unit;
    const float* from = place(group * P, z, y, begin + a_.w.offset) + channel_;
    bool is_whole = channels_ == all_ && padded_ == all_;
    int pieces = is_whole ? 1 : end - begin;
    int length = is_whole ? (end - begin) * all_ : channels_;
    // The last one of an odd number of examples is paired with zeros.
    bool has_other = group * P + 1 < examples_;
    size_t other = has_other ? place(1, 0, 0, 0) - place(0, 0, 0, 0) : 0;
    for (int i = 0; i < pieces; i++, to += unit, from += all_) {
      if (P == 1) memcpy(to, from, length * sizeof(float));
      for (int j = 0; P == 2 && j < length; j++) {
        to[2 * j] = from[j], to[2 * j + 1] = has_other ? from[other + j] : 0.f;
      }
    }
  }

  const float* x_;
  int examples_;
  Axes a_;
  int all_, channel_, channels_, padded_, width_;
  std::vector<int> kept_;
  std::vector<const float*> table_;
  std::vector<float> buffer_;
  size_t size_;
  bool is_direct_;
  int group_ = -1, q_ = -1;
};

// --- the convolution, and the gradient with respect to its input

// The rows that a tile of results meets, and the kernel in the order in which it is read.
struct Window {
  const float* const* rows;
  int planes, plane, taps, run, step;
  const float* panel;
  int width, valid;
  size_t y_step;
};

// T places of the result, V registers of channels each.
template <int P, int V, int T>
void gather_tile(const Window& m, int begin, float* const* y) {
  Lanes sums[T][V] = {};
  const float* panel = m.panel;
  for (int line = 0; line < m.planes * m.taps; line++) {
    const float* x = m.rows[line / m.taps * m.plane + line % m.taps] + (size_t)begin * m.step;
    for (int i = 0; i < m.run; i++, x += P, panel += m.width) {
      Lanes k[V];
      for (int v = 0; v < V; v++) k[v] = load(panel + v * kLanes);
      for (int t = 0; t < T; t++) {
        for (int v = 0; v < V; v++) sums[t][v] += times<P>(x + t * m.step, k[v]);
      }
    }
  }
  constexpr int kOut = kLanes / P;
  for (int i = 0; i < T * V * P; i++) {
    int t = i / V / P, v = i / P % V, p = i % P, n = std::min(kOut, m.valid - v * kOut);
    Lanes sum = P == 1 ? sums[t][v] : unpair(sums[t][v], std::make_index_sequence<kLanes>());
    if (!y[p]) continue;
    float* to = y[p] + (begin + t) * m.y_step + v * kOut;
    if (n == kOut) memcpy(to, (const float*)&sum + p * kOut, kOut * sizeof(float));
    if (n < kOut) memcpy(to, (const float*)&sum + p * kOut, n * sizeof(float));
  }
}

template <int P, class Pool>
void gather(Pool& pool, const Shape& s, const float* x, const float* kernel, float* y,
            const Axes& a, bool is_transposed) {
  const int in = is_transposed ? s.out : s.in, out = is_transposed ? s.in : s.out;
  const int in_step = is_transposed ? 1 : out, out_step = is_transposed ? in : 1;
  const int examples = s.examples;
  if (!examples || !a.d.count || !a.h.count || !a.w.count) return;
  constexpr int kOut = kLanes / P;
  const int registers = P == 1 && out > kOut ? 2 : 1, width = registers * kLanes;
  const int blocks = ceil_div(out, registers * kOut), run = a.w.taps * in;
  const int lines = a.d.taps * a.h.taps;
  const size_t panel = (size_t)lines * run * width;
  std::unique_ptr<float[]> packed(new float[blocks * panel + 1]);
  float* panels = packed.get();  // [blocks, depth and height, width, in, lanes]
  const int pieces = blocks * panel < 1 << 16 ? 1 : blocks * lines;
  parallel(pool, pieces, [=](int piece) {
    for (int i = piece; i < (pieces == 1 ? blocks * lines : piece + 1); i++) {
      int z = a.d.tap + a.d.next * (i % lines / a.h.taps);
      int r = a.h.tap + a.h.next * (i % a.h.taps), block = i / lines;
      float* to = panels + (size_t)i * run * width;
      for (int j = 0; j < run; j++, to += width) {
        size_t tap = (z * s.h.window + r) * s.w.window + a.w.tap + a.w.next * (j / in);
        const float* from = kernel + tap * in * out + (size_t)(j % in) * in_step;
        for (int l = 0; l < width; l++) {
          int o = block * registers * kOut + l / P;
          to[l] = o < out ? from[(size_t)o * out_step] : 0.f;
        }
      }
    }
  });
  const int rows = a.rows_in_block(in * P);
  const Items items(a, ceil_div(examples, P), rows);
  const int chunks = std::min(items.n, kTasks), splits = std::min(blocks, kTasks / chunks);
  parallel(pool, chunks * splits, [=](int task) {
    Source<P> source(x, examples, a, in, 0, in, in, rows);
    Window m{};
    m.planes = a.d.taps, m.plane = source.rows, m.taps = a.h.taps, m.run = run;
    m.step = a.w.stride * in * P, m.width = width, m.y_step = (size_t)a.w.step * out;
    items.part(task / splits, chunks, [&](int group, int band, int depth) {
      int q = band * rows, split = task % splits;
      const float* const* table = source.at(group, depth, q);
      for (int b = blocks * split / splits; b < blocks * (split + 1) / splits; b++) {
        int o = b * registers * kOut;
        m.valid = out - o, m.panel = panels + b * panel;
        for (int i = q; i < std::min(q + rows, a.h.count); i++) {
          m.rows = table + (i - q) * a.h.stride;
          float* to[P];
          for (int p = 0; p < P; p++) {
            size_t row = (size_t)(group * P + p) * a.d.result + a.d.first + a.d.step * depth;
            row = (row * a.h.result + a.h.first + a.h.step * i) * a.w.result + a.w.first;
            to[p] = group * P + p < examples ? y + row * out + o : nullptr;
          }
          auto tile = [&](auto v) {
            auto some = [&](int begin, auto t) { gather_tile<P, v, t>(m, begin, to); };
            in_pieces<v>(a.w.count, some);
          };
          with_constant<3 - P>(m.valid > kOut ? registers : 1, tile);
        }
      }
    });
  });
}

// --- the gradient with respect to the kernel

// The rows of input and gradient that a tile of the kernel sums over.
struct Places {
  const float *const *x, *const *g;
  int rows, x_rows, count;
  size_t x_step, g_step;
};

// Adds T neighbouring entries of [width, in], V registers of output channels each, to `to`.
template <int P, int V, int T>
void scatter_tile(const Places& m, int begin, int o, float* const* to, int valid) {
  Lanes sums[T][V] = {};
  for (int r = 0; r < m.rows; r++) {
    const float *x = m.x[r * m.x_rows] + begin * P, *g = m.g[r] + o * P;
    for (int i = 0; i < m.count; i++, x += m.x_step, g += m.g_step) {
      Lanes b[V];
      for (int v = 0; v < V; v++) b[v] = load(g + v * kLanes);
      for (int t = 0; t < T; t++) {
        for (int v = 0; v < V; v++) sums[t][v] += times<P>(x + t * P, b[v]);
      }
    }
  }
  for (int t = 0; t < T; t++) {
    float lanes[V * kLanes];
    memcpy(lanes, sums[t], sizeof lanes);
    for (int i = 0; i < std::min(V * kLanes / P, valid); i++) {
      to[t][o + i] += P == 1 ? lanes[i] : lanes[P * i] + lanes[P * i + P - 1];
    }
  }
}

template <int P, class Pool>
void scatter(Pool& pool, const float* x, const float* g, float* kernel, const Shape& s) {
  const Axes a{s.d.forward(), s.h.forward(), s.w.forward()};
  auto alone = [](const Spatial& n) { return Spatial{n.out, n.out, 1, 1, 0}.forward(); };
  const Axes places{alone(s.d), alone(s.h), alone(s.w)};
  constexpr int kOut = kLanes / P;
  const int in = s.in, out = s.out, examples = s.examples, padded = ceil_div(out, kOut) * kOut;
  const size_t tap = (size_t)in * out, size = tap * a.d.taps * a.h.taps * a.w.taps;
  std::fill(kernel, kernel + size, 0.f);
  if (!examples || !a.d.count || !a.h.count || !a.w.count) return;
  // Many input channels are divided among the tasks, otherwise the places are: each part of
  // them needs a kernel of its own.
  const int splits = std::clamp(in / 16, 1, kTasks), rows = a.rows_in_block(in / splits * P);
  const Items items(a, ceil_div(examples, P), rows);
  const int parts = std::min(items.n, kTasks / splits);
  std::vector<float> others((parts - 1) * size);
  float* scratch = others.data();
  parallel(pool, parts * splits, [=](int task) {
    int part = task / splits, split = task % splits;
    int channel = in * split / splits, channels = in * (split + 1) / splits - channel;
    float* sums = (part ? scratch + (part - 1) * size : kernel) + (size_t)channel * out;
    Source<P> xs(x, examples, a, in, channel, channels, channels, rows);
    Source<P> gs(g, examples, places, out, 0, out, padded, rows);
    Places m{};
    m.count = a.w.count, m.x_rows = a.h.stride;
    m.x_step = (size_t)a.w.stride * channels * P, m.g_step = (size_t)padded * P;
    items.part(part, parts, [&](int group, int band, int depth) {
      m.rows = std::min(rows, a.h.count - band * rows);
      const float* const* table = xs.at(group, depth, band * rows);
      m.g = gs.at(group, depth, band * rows);
      for (int line = 0; line < a.d.taps * a.h.taps; line++) {
        m.x = table + line / a.h.taps * xs.rows + line % a.h.taps;
        for (int o = 0; o < out;) {
          auto tile = [&](auto v) {
            in_pieces<v>(a.w.taps * channels, [&](int begin, auto t) {
              float* to[t];
              for (int i = 0; i < t; i++) {
                int w = line * a.w.taps + (begin + i) / channels;
                to[i] = sums + w * tap + (size_t)((begin + i) % channels) * out;
              }
              scatter_tile<P, v, t>(m, begin, o, to, out - o);
            });
            o += v * kOut;
          };
          with_constant<3 - P>(P == 1 && out - o > kOut ? 2 : 1, tile);
        }
      }
    });
  });
  for (int part = 1; part < parts; part++) {
    for (size_t i = 0; i < size; i++) kernel[i] += scratch[(part - 1) * size + i];
  }
}

// --- the three calls

template <class Pool>
void output(Pool& pool, const Shape& s, const float* x, const float* k, float* y) {
  auto call = s.has_pairs(s.out) ? gather<2, Pool> : gather<1, Pool>;
  call(pool, s, x, k, y, {s.d.forward(), s.h.forward(), s.w.forward()}, false);
}

template <class Pool>
void input_gradient(Pool& pool, const Shape& s, const float* g, const float* k, float* x) {
  auto call = s.has_pairs(s.in) ? gather<2, Pool> : gather<1, Pool>;
  for (int i = 0; i < s.d.stride * s.h.stride * s.w.stride; i++) {
    int h = i / s.w.stride % s.h.stride, w = i % s.w.stride, d = i / s.w.stride / s.h.stride;
    call(pool, s, g, k, x, {s.d.backward(d), s.h.backward(h), s.w.backward(w)}, true);
  }
}

template <class Pool>
void kernel_gradient(Pool& pool, const Shape& s, const float* x, const float* g, float* k) {
  auto call = s.has_pairs(s.out) ? scatter<2, Pool> : scatter<1, Pool>;
  call(pool, x, g, k, s);
}

}  // namespace

#ifndef WITHOUT_XLA
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Numbers = ffi::Span<const int32_t>;

template <auto Function>
ffi::Error call(ffi::ThreadPool pool, Array a, Array b, ffi::Result<Array> c, Numbers numbers) {
  Shape shape;
  memcpy(&shape, numbers.begin(), sizeof shape);
  Function(pool, shape, a.typed_data(), b.typed_data(), c->typed_data());
  return ffi::Error::Success();
}

#define DEFINE(name, function)                                                              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, call<function<ffi::ThreadPool>>,                      \
                                ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Array>()        \
                                    .Arg<Array>().Ret<Array>().Attr<Numbers>("shape"))
DEFINE(output_call, output);
DEFINE(input_call, input_gradient);
DEFINE(kernel_call, kernel_gradient);
#endif
