// Convolutions of float32 arrays, channels last, and their gradients, as calls of XLA:CPU that
// run on its threads.
//
// Every spatial axis is described by an `Axis`, the same for a convolution and for the gradient
// with respect to its input, so both are `gather`: a result is a sum over the window. The
// gradient with respect to the kernel is `scatter`: each place adds to all taps of the window.
// A picture is an array of depth 1.
//
// In the inner loops a register holds L neighbouring output channels, and the sums of several
// places or taps stay in registers. The shapes alone decide how the work is divided, and sums
// of parts are added in a fixed order, so the result has the same bits however the threads are
// scheduled.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

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

template <int L>
struct Register {
  typedef float Lanes __attribute__((vector_size(4 * L), aligned(4), may_alias));
};
template <int L>
using Lanes = typename Register<L>::Lanes;

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The beginning of part i of 0 ... n - 1 if it is divided into `parts`.
int begin_of(int i, int parts, int n) { return (int64_t)n * i / parts; }

// Calls f with the constant n, which is one of 1 ... N.
template <int N, class F>
void with_constant(int n, F f) {
  if (n == N) return f(std::integral_constant<int, N>());
  if constexpr (N > 1) with_constant<N - 1>(n, f);
}

// Calls f with the number of lanes of a register: half of them if they hold all channels.
template <class F>
void with_lanes(int channels, F f) {
  if (channels > kLanes / 2) return f(std::integral_constant<int, kLanes>());
  f(std::integral_constant<int, kLanes / 2>());
}

// Calls f(begin, T) for pieces of about equal length T of 0 ... n - 1, with V registers each.
template <int V, class F>
void in_pieces(int n, F f) {
  constexpr int kMost = std::min(kSums / V, 16);
  for (int i = 0, pieces = ceil_div(n, kMost); i < pieces; i++) {
    int begin = begin_of(i, pieces, n), length = begin_of(i + 1, pieces, n) - begin;
    with_constant<kMost>(length, [&](auto t) { f(begin, t); });
  }
}

// Calls f(0) ... f(n - 1) on the threads of the pool and on this one.
template <class Pool, class F>
void parallel(Pool& pool, int n, F f) {
  // Shared, since a thread of the pool may come when all is done.
  using Count = std::atomic<int>;
  auto next = std::make_shared<Count>(0), done = std::make_shared<Count>(0);
  auto work = [=] {
    for (int i; (i = (*next)++) < n; ++*done) f(i);
  };
  int helpers = std::min<int>(pool.num_threads(), n) - 1;
  for (int i = 0; i < helpers; i++) pool.Schedule([work] { work(); });
  work();
  for (int spins = 0; *done < n; spins++) {
    if (spins > 2000) std::this_thread::yield();
  }
}

// Result `first + step * q` is a sum over places `stride * q + offset + t` of the source, each
// multiplied by tap `tap + next * t` of the kernel; q < count, t < taps.
struct Axis {
  int source, result, count, first, step, stride, offset, taps, tap, next;

  int width(int results) const { return (results - 1) * stride + taps; }
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

  bool is_empty() const { return !d.count || !h.count || !w.count; }
};

// The numbers that a call comes with, in this order.
struct Shape {
  int examples, in, out;
  Spatial d, h, w;
};

// Blocks of rows, one depth after the other, example by example. The rows of the source that a
// block meets fit into a cache.
struct Blocks {
  int rows, depths, bands, n;

  Blocks(const Axes& a, int examples, int channels) : depths(a.d.count) {
    int64_t row = std::max<int64_t>(1, (int64_t)a.h.stride * a.w.width(a.w.count) * channels);
    bands = ceil_div(a.h.count, std::clamp<int64_t>(kSource / row, 1, a.h.count));
    rows = ceil_div(a.h.count, bands), bands = ceil_div(a.h.count, rows);
    n = examples * bands * depths;
  }

  // Calls f(example, first row, depth) for the blocks of a part.
  template <class F>
  void of_part(int part, int parts, F f) const {
    for (int i = begin_of(part, parts, n), end = begin_of(part + 1, parts, n); i < end; i++) {
      f(i / depths / bands, i / depths % bands * rows, i % depths);
    }
  }
};

// A copy of the rows of the source that the windows of a block of rows meet, with zeros around
// them.
class Source {
 public:
  int rows;                         // in a plane of the table
  std::vector<const float*> table;  // a pointer to each row

  // `channels` of `all` channels, from `channel` on.
  Source(const float* x, const Axes& a, int all, int channel, int channels, int block)
      : rows(a.h.width(block)), table((size_t)a.d.taps * rows), x_(x + channel), a_(a),
        all_(all), channels_(channels), width_(a.w.width(a.w.count)),
        row_((size_t)width_ * channels), buffer_(table.size() * row_) {
    for (size_t i = 0; i < table.size(); i++) table[i] = buffer_.data() + i * row_;
  }

  // Copies the rows for the result's row q and those that follow.
  void copy(int example, int q, int depth) {
    float* to = buffer_.data();
    for (int i = 0; i < a_.d.taps * rows; i++, to += row_) {
      int z = depth * a_.d.stride + a_.d.offset + i / rows;
      int y = q * a_.h.stride + a_.h.offset + i % rows;
      bool is_inside = z >= 0 && z < a_.d.source && y >= 0 && y < a_.h.source;
      int begin = std::clamp(-a_.w.offset, 0, width_);
      int end = is_inside ? std::clamp(a_.w.source - a_.w.offset, begin, width_) : begin;
      std::fill(to, to + (size_t)begin * channels_, 0.f);
      std::fill(to + (size_t)end * channels_, to + row_, 0.f);
      size_t row = ((size_t)example * a_.d.source + z) * a_.h.source + y;
      int step = channels_ == all_ ? end - begin : 1;
      for (int w = begin; w < end; w += step) {
        const float* from = x_ + (row * a_.w.source + w + a_.w.offset) * all_;
        memcpy(to + (size_t)w * channels_, from, (size_t)step * channels_ * sizeof(float));
      }
    }
  }

 private:
  const float* x_;
  Axes a_;
  int all_, channels_, width_;
  size_t row_;
  std::vector<float> buffer_;
};

// --- the convolution, and the gradient with respect to its input

// The rows that a tile of results meets, and the kernel in the order in which it is read.
struct Window {
  const float *const *rows, *panel;
  int planes, plane, taps, run, step, width, valid;
  size_t y_step;
};

// T places of the result, V registers of channels each.
template <int L, int V, int T>
void gather_tile(const Window& m, int begin, float* y) {
  Lanes<L> sums[T][V] = {};
  const float* panel = m.panel;
  for (int line = 0; line < m.planes * m.taps; line++) {
    const float* x = m.rows[line / m.taps * m.plane + line % m.taps] + (size_t)begin * m.step;
// Two at a time, since short registers wait for the addresses of the places otherwise (1.3).
#pragma GCC unroll 2
    for (int i = 0; i < m.run; i++, x++, panel += m.width) {
      Lanes<L> k[V];
      for (int v = 0; v < V; v++) k[v] = ((const Lanes<L>*)panel)[v];
      for (int t = 0; t < T; t++) {
        for (int v = 0; v < V; v++) sums[t][v] += x[t * m.step] * k[v];
      }
    }
  }
  for (int t = 0; t < T; t++) {
    float* to = y + (begin + t) * m.y_step;
    if (m.valid >= V * L) memcpy(to, sums[t], V * L * sizeof(float));
    if (m.valid < V * L) memcpy(to, sums[t], m.valid * sizeof(float));
  }
}

template <int L, class Pool>
void gather(Pool& pool, const Shape& s, const float* x, const float* kernel, float* y,
            const Axes& a, bool is_transposed) {
  if (!s.examples || a.is_empty()) return;
  const int in = is_transposed ? s.out : s.in, out = is_transposed ? s.in : s.out;
  const int in_step = is_transposed ? 1 : out, out_step = is_transposed ? in : 1;
  const int width = out > L ? 2 * L : L, panels = ceil_div(out, width);
  const int lines = a.d.taps * a.h.taps, run = a.w.taps * in;
  const size_t line = (size_t)run * width, size = panels * lines * line;
  std::unique_ptr<float[]> packed(new float[size + 1]);
  float* kernels = packed.get();  // [panels, depth and height, width and in, lanes]
  const int pieces = size < 1 << 16 ? 1 : panels * lines;
  parallel(pool, pieces, [=](int piece) {
    for (int i = piece; i < panels * lines; i += pieces) {
      int z = a.d.tap + a.d.next * (i % lines / a.h.taps);
      int r = a.h.tap + a.h.next * (i % a.h.taps), first = i / lines * width;
      float* to = kernels + i * line;
      for (int j = 0; j < run; j++, to += width) {
        size_t tap = (z * s.h.window + r) * s.w.window + a.w.tap + a.w.next * (j / in);
        const float* from = kernel + tap * in * out + (size_t)(j % in) * in_step;
        for (int l = 0; l < width; l++) {
          to[l] = first + l < out ? from[(size_t)(first + l) * out_step] : 0.f;
        }
      }
    }
  });
  const Blocks blocks(a, s.examples, in);
  const int parts = std::min(blocks.n, kTasks), splits = std::min(panels, kTasks / parts);
  parallel(pool, parts * splits, [=](int task) {
    Source source(x, a, in, 0, in, blocks.rows);
    Window m{};
    m.planes = a.d.taps, m.plane = source.rows, m.taps = a.h.taps, m.run = run;
    m.step = a.w.stride * in, m.width = width, m.y_step = (size_t)a.w.step * out;
    int begin = begin_of(task % splits, splits, panels);
    int end = begin_of(task % splits + 1, splits, panels);
    blocks.of_part(task / splits, parts, [&](int example, int q, int depth) {
      source.copy(example, q, depth);
      for (int panel = begin; panel < end; panel++) {
        m.valid = out - panel * width, m.panel = kernels + panel * lines * line;
        for (int i = q; i < std::min(q + blocks.rows, a.h.count); i++) {
          size_t row = (size_t)example * a.d.result + a.d.first + a.d.step * depth;
          row = (row * a.h.result + a.h.first + a.h.step * i) * a.w.result + a.w.first;
          float* to = y + row * out + panel * width;
          m.rows = source.table.data() + (i - q) * a.h.stride;
          with_constant<L == kLanes ? 2 : 1>(m.valid > L ? 2 : 1, [&](auto v) {
            auto tile = [&](int first, auto t) { gather_tile<L, v, t>(m, first, to); };
            in_pieces<v>(a.w.count, tile);
          });
        }
      }
    });
  });
}

// --- the gradient with respect to the kernel

// The rows of the input and of the gradient that a tile of the kernel sums over.
struct Places {
  const float *const *x, *g;
  int rows, x_rows, count;
  size_t x_step, g_step;
};

// Adds T neighbouring entries of [width, in], V registers of output channels each, to `to`.
template <int L, int V, int T>
void scatter_tile(const Places& m, int begin, int o, float* const* to, int valid) {
  Lanes<L> sums[T][V] = {};
  for (int r = 0; r < m.rows; r++) {
    const float *x = m.x[r * m.x_rows] + begin, *g = m.g + r * m.count * m.g_step + o;
    for (int i = 0; i < m.count; i++, x += m.x_step, g += m.g_step) {
      Lanes<L> b[V];
      for (int v = 0; v < V; v++) b[v] = ((const Lanes<L>*)g)[v];
      for (int t = 0; t < T; t++) {
        for (int v = 0; v < V; v++) sums[t][v] += x[t] * b[v];
      }
    }
  }
  for (int t = 0; t < T; t++) {
    float lanes[V * L];
    memcpy(lanes, sums[t], sizeof lanes);
    for (int i = 0; i < std::min(V * L, valid); i++) to[t][o + i] += lanes[i];
  }
}

template <int L, class Pool>
void scatter(Pool& pool, const Shape& s, const float* x, const float* g, float* kernel) {
  const Axes a{s.d.forward(), s.h.forward(), s.w.forward()};
  const int in = s.in, out = s.out;
  const size_t tap = (size_t)in * out, size = tap * a.d.taps * a.h.taps * a.w.taps;
  std::fill(kernel, kernel + size, 0.f);
  if (!s.examples || a.is_empty()) return;
  // Many input channels are divided among the tasks, otherwise the places are: each part of
  // them needs a kernel of its own.
  const int splits = std::clamp(in / 16, 1, kTasks);
  const Blocks blocks(a, s.examples, in / splits);
  const int parts = std::min(blocks.n, kTasks / splits);
  std::vector<float> others((parts - 1) * size);
  float* scratch = others.data();
  parallel(pool, parts * splits, [=](int task) {
    int part = task / splits, channel = begin_of(task % splits, splits, in);
    int channels = begin_of(task % splits + 1, splits, in) - channel;
    float* sums = (part ? scratch + (part - 1) * size : kernel) + (size_t)channel * out;
    Source xs(x, a, in, channel, channels, blocks.rows);
    // Lanes without a channel read the next place, and are not used: there is none at the end.
    const size_t row = (size_t)a.w.count * out;
    std::vector<float> copy(out % L ? blocks.rows * row + L : 0);
    Places m{};
    m.count = a.w.count, m.x_rows = a.h.stride;
    m.x_step = (size_t)a.w.stride * channels, m.g_step = out;
    blocks.of_part(part, parts, [&](int example, int q, int depth) {
      m.rows = std::min(blocks.rows, a.h.count - q);
      xs.copy(example, q, depth);
      m.g = g + (((size_t)example * a.d.count + depth) * a.h.count + q) * row;
      if (out % L) m.g = std::copy(m.g, m.g + m.rows * row, copy.data()) - m.rows * row;
      for (int line = 0; line < a.d.taps * a.h.taps; line++) {
        m.x = xs.table.data() + line / a.h.taps * xs.rows + line % a.h.taps;
        for (int o = 0; o < out; o += 2 * L) {
          with_constant<L == kLanes ? 2 : 1>(out - o > L ? 2 : 1, [&](auto v) {
            in_pieces<v>(a.w.taps * channels, [&](int begin, auto t) {
              float* to[t];
              for (int i = 0; i < t; i++) {
                int w = line * a.w.taps + (begin + i) / channels;
                to[i] = sums + w * tap + (size_t)((begin + i) % channels) * out;
              }
              scatter_tile<L, v, t>(m, begin, o, to, out - o);
            });
          });
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
  const Axes axes{s.d.forward(), s.h.forward(), s.w.forward()};
  with_lanes(s.out, [&](auto lanes) { gather<lanes>(pool, s, x, k, y, axes, false); });
}

template <class Pool>
void input_gradient(Pool& pool, const Shape& s, const float* g, const float* k, float* x) {
  for (int i = 0; i < s.d.stride * s.h.stride * s.w.stride; i++) {
    int h = i / s.w.stride % s.h.stride, w = i % s.w.stride, d = i / s.w.stride / s.h.stride;
    const Axes axes{s.d.backward(d), s.h.backward(h), s.w.backward(w)};
    with_lanes(s.in, [&](auto lanes) { gather<lanes>(pool, s, g, k, x, axes, true); });
  }
}

template <class Pool>
void kernel_gradient(Pool& pool, const Shape& s, const float* x, const float* g, float* k) {
  with_lanes(s.out, [&](auto lanes) { scatter<lanes>(pool, s, x, g, k); });
}

}  // namespace

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
