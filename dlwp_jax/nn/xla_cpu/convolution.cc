// Convolutions of float32 arrays, channels last, and their gradients, as calls of XLA:CPU that
// run on its threads. A picture is an array of depth 1. Every spatial axis is described by an
// `Axis`, the same for a convolution and for the gradient with respect to its input, so both
// are `gather`: a result is a sum over the window. The shapes alone decide how the work is
// divided, and parts are added in a fixed order, so a result has the same bits however the
// threads are scheduled.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
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

// The lanes of half a register, of one or of two, of which a panel of channels consists.
int width_for(int channels) {
  return channels > kLanes ? 2 * kLanes : channels > kLanes / 2 ? kLanes : kLanes / 2;
}

// Calls f(begin, L, V, T) for pieces of about equal length T of 0 ... n - 1, with the V
// registers of L lanes that hold the channels of a panel.
template <class F>
void in_pieces(int n, int channels, F f) {
  with_constant<4>(width_for(channels) * 2 / kLanes, [&](auto halves) {
    std::integral_constant<int, (halves > 1 ? kLanes : kLanes / 2)> l;
    std::integral_constant<int, (halves > 2 ? 2 : 1)> v;
    constexpr int kMost = std::min(kSums / v, 16);
    for (int i = 0, pieces = ceil_div(n, kMost); i < pieces; i++) {
      int begin = begin_of(i, pieces, n), length = begin_of(i + 1, pieces, n) - begin;
      with_constant<kMost>(length, [&](auto t) { f(begin, l, v, t); });
    }
  });
}

// Calls f(0) ... f(n - 1) on the threads of the pool and on this one.
template <class Pool, class F>
void parallel(Pool& pool, int n, F f) {
  // Shared, since a thread of the pool may come when all is done.
  const auto next = std::make_shared<std::atomic<int>>(0);
  const auto done = std::make_shared<std::atomic<int>>(0);
  auto work = [=] {
    for (int i; (i = (*next)++) < n; ++*done) f(i);
  };
  for (int i = std::min<int>(pool.num_threads(), n); i > 1; i--) pool.Schedule([=] { work(); });
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

struct Axes { Axis d, h, w; };

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
    bands = ceil_div(a.h.count, std::clamp<int64_t>(kSource / row, 1, std::max(1, a.h.count)));
    rows = ceil_div(a.h.count, std::max(1, bands));
    n = a.w.count > 0 ? examples * bands * depths : 0;
  }

  // Calls f(example, first row, depth) for the blocks of a part.
  template <class F>
  void of_part(int part, int parts, F f) const {
    for (int i = begin_of(part, parts, n), end = begin_of(part + 1, parts, n); i < end; i++) {
      f(i / depths / bands, i / depths % bands * rows, i % depths);
    }
  }
};

// The rows of the source that the windows of a block of rows meet: copies with zeros at the
// ends, if the windows reach over them.
struct Source {
  Source(const float* x, const Axes& a, int channels, int block)
      : x_(x), a_(a), channels_(channels), rows_(a.h.width(block)),
        width_(a.w.width(a.w.count)), begin_(std::max(0, -a.w.offset)),
        end_(std::min(a.w.source - a.w.offset, width_)), size_(channels_ * width_),
        table_((size_t)a.d.taps * rows_), copied_(table_.size(), -1),
        buffer_(new float[table_.size() * size_]) {}

  // Finds the rows for the result's row q and those that follow.
  void find(int example, int q, int depth) {
    for (size_t i = 0; i < table_.size(); i++) {
      int place = depth * a_.d.stride + i / rows_, z = place + a_.d.offset;
      int y = q * a_.h.stride + a_.h.offset + i % rows_;
      table_[i] = nullptr;
      if (z < 0 || z >= a_.d.source || y < 0 || y >= a_.h.source || begin_ >= end_) continue;
      int64_t row = ((int64_t)example * a_.d.source + z) * a_.h.source + y;
      const float* from = x_ + (row * a_.w.source + begin_ + a_.w.offset) * channels_;
      int slot = place % a_.d.taps * rows_ + i % rows_;
      float *to = buffer_.get() + slot * size_, *first = to + begin_ * channels_;
      table_[i] = end_ - begin_ == width_ ? from : to;
      // The last depth may have copied it.
      if (table_[i] == from || std::exchange(copied_[slot], row) == row) continue;
      std::fill(to, first, 0.f);
      std::fill(std::copy_n(from, (end_ - begin_) * channels_, first), to + size_, 0.f);
    }
  }

  // The row that row i of the block meets at a depth and height of the window; null outside.
  const float* row(int i, int line) const {
    return table_[line / a_.h.taps * rows_ + line % a_.h.taps + i * a_.h.stride];
  }

  const float* x_;
  Axes a_;
  int64_t channels_;
  int rows_, width_, begin_, end_;
  size_t size_;
  std::vector<const float*> table_;
  std::vector<int64_t> copied_;
  std::unique_ptr<float[]> buffer_;
};

// The pairs of rows that a tile multiplies, and the steps between neighbours in them.
struct Rows {
  std::vector<std::pair<const float*, const float*>> pairs;
  int count;
  size_t x_step, step;
};

// T places of the result, V registers of channels each, from rows of source and kernel.
template <int L, int V, int T>
void gather_tile(const Rows& m, int begin, float* y, size_t y_step, int valid) {
  Lanes<L> sums[T][V] = {};
  for (auto [x, kernel] : m.pairs) {
    x += begin * m.x_step;
    for (int i = 0; i < m.count; i++, x++, kernel += m.step) {
      Lanes<L> k[V];
      for (int v = 0; v < V; v++) k[v] = ((const Lanes<L>*)kernel)[v];
      const float* place = x;
      for (int t = 0; t < T; t++, place += m.x_step) {
        // Otherwise the compiler keeps T addresses, for which there are no registers (1.1-1.3).
        asm volatile("" : "+r"(place));
        for (int v = 0; v < V; v++) sums[t][v] += *place * k[v];
      }
    }
  }
  for (int t = 0; t < T; t++) {
    float* to = y + (begin + t) * y_step;
    if (valid >= V * L) memcpy(to, sums[t], V * L * sizeof(float));
    if (valid < V * L) memcpy(to, sums[t], valid * sizeof(float));
  }
}

// T places of a result of one channel: the lanes hold neighbours in a row of the window.
template <int L, int T>
void dot_tile(const Rows& m, int begin, float* y, size_t y_step) {
  Lanes<L> sums[T] = {};
  float rest[T] = {};
  for (auto [x, kernel] : m.pairs) {
    x += begin * m.x_step;
    int i = 0;
    for (; i + L <= m.count; i += L) {
      Lanes<L> k = *(const Lanes<L>*)(kernel + i);
      for (int t = 0; t < T; t++) sums[t] += *(const Lanes<L>*)(x + t * m.x_step + i) * k;
    }
    for (; i < m.count; i++) {
      for (int t = 0; t < T; t++) rest[t] += x[t * m.x_step + i] * kernel[i];
    }
  }
  for (int t = 0; t < T; t++) {
    for (int l = 0; l < L; l++) rest[t] += sums[t][l];
    y[(begin + t) * y_step] = rest[t];
  }
}

template <class Pool>
void gather(Pool& pool, const Shape& s, const float* x, const float* kernel, float* y,
            const Axes& a, bool is_transposed) {
  const int in = is_transposed ? s.out : s.in, out = is_transposed ? s.in : s.out;
  const size_t in_step = is_transposed ? 1 : out, out_step = is_transposed ? in : 1;
  const int width = out > 1 ? width_for(out) : 1, panels = ceil_div(out, width);
  const int lines = a.d.taps * a.h.taps, run = a.w.taps * in;
  const size_t line_size = (size_t)run * width, size = panels * lines * line_size;
  std::unique_ptr<float[]> packed(new float[size]);
  float* kernels = packed.get();  // [panels, depth and height, width and in, lanes]
  const int pieces = size < 1 << 16 ? 1 : panels * lines;
  parallel(pool, pieces, [=](int piece) {
    for (int i = piece; i < panels * lines; i += pieces) {
      int z = a.d.tap + a.d.next * (i % lines / a.h.taps), first = i / lines * width;
      int r = a.h.tap + a.h.next * (i % a.h.taps), valid = std::min(width, out - first);
      float* to = kernels + i * line_size;
      if (valid < width) std::fill(to, to + line_size, 0.f);
      for (int j = 0; j < run; j++, to += width) {
        size_t tap = (z * s.h.window + r) * s.w.window + a.w.tap + a.w.next * (j / in);
        const float* from = kernel + tap * in * out + j % in * in_step + first * out_step;
        for (int l = 0; l < valid; l++) to[l] = from[l * out_step];
      }
    }
  });
  // Each part of the places reads all panels of a split, and each split copies the places.
  const double sources = (double)s.examples * a.d.source * a.h.source * a.w.source * in;
  int splits = 1;
  while (2 * splits <= std::min(panels, kTasks) &&
         kTasks * size > 2 * splits * splits * sources) splits *= 2;
  const Blocks blocks(a, s.examples, in);
  const int parts = std::min(blocks.n, kTasks / splits);
  parallel(pool, parts * splits, [=](int task) {
    Source source(x, a, in, blocks.rows);
    Rows m{{}, run, (size_t)a.w.stride * in, (size_t)width};
    const size_t y_step = (size_t)a.w.step * out;
    blocks.of_part(task / splits, parts, [&](int example, int q, int depth) {
      source.find(example, q, depth);
      for (int panel = task % splits; panel < panels; panel += splits) {
        for (int i = q; i < std::min(q + blocks.rows, a.h.count); i++) {
          size_t row = (size_t)example * a.d.result + a.d.first + a.d.step * depth;
          row = (row * a.h.result + a.h.first + a.h.step * i) * a.w.result + a.w.first;
          float* to = y + row * out + panel * width;
          m.pairs.clear();
          for (int line = 0; line < lines; line++) {
            const float* from = source.row(i - q, line);
            if (from) m.pairs.push_back({from, kernels + (panel * lines + line) * line_size});
          }
          in_pieces(a.w.count, out - panel * width, [&](int first, auto l, auto v, auto t) {
            if (width == 1) return dot_tile<l, t>(m, first, to, y_step);
            gather_tile<l, v, t>(m, first, to, y_step, out - panel * width);
          });
        }
      }
    });
  });
}

template <class Pool>
void output(Pool& pool, const Shape& s, const float* x, const float* k, float* y) {
  gather(pool, s, x, k, y, {s.d.forward(), s.h.forward(), s.w.forward()}, false);
}

template <class Pool>
void input_gradient(Pool& pool, const Shape& s, const float* g, const float* k, float* x) {
  for (int i = 0; i < s.d.stride * s.h.stride * s.w.stride; i++) {
    int h = i / s.w.stride % s.h.stride, w = i % s.w.stride, d = i / s.w.stride / s.h.stride;
    gather(pool, s, g, k, x, {s.d.backward(d), s.h.backward(h), s.w.backward(w)}, true);
  }
}

// Adds T neighbouring entries of [width, in], V registers of output channels each, to `to`.
template <int L, int V, int T>
void scatter_tile(const Rows& m, int begin, float* to, int width) {
  Lanes<L> sums[T][V] = {};
  for (auto [x, g] : m.pairs) {
    x += begin;
    for (int i = 0; i < m.count; i++, x += m.x_step, g += m.step) {
      Lanes<L> b[V];
      for (int v = 0; v < V; v++) b[v] = ((const Lanes<L>*)g)[v];
      for (int t = 0; t < T; t++) {
        for (int v = 0; v < V; v++) sums[t][v] += x[t] * b[v];
      }
    }
  }
  for (int t = 0; t < T; t++, to += width) {
    for (int v = 0; v < V; v++) ((Lanes<L>*)to)[v] += sums[t][v];
  }
}

template <class Pool>
void kernel_gradient(Pool& pool, const Shape& s, const float* x, const float* g, float* k) {
  const Axes a{s.d.forward(), s.h.forward(), s.w.forward()};
  const int in = s.in, out = s.out, lines = a.d.taps * a.h.taps, run = a.w.taps * in;
  const int width = width_for(out), panels = ceil_div(out, width);
  const size_t size = (size_t)lines * run * width, row = (size_t)a.w.count * out;
  const Blocks blocks(a, s.examples, in);
  const int splits = std::min(panels, kTasks), parts = std::min(blocks.n, kTasks / splits);
  auto write = [=](int panel, const float* from) {  // the sum of all parts
    for (int i = 0; i < lines * run; i++, from += width) {
      float sums[2 * kLanes] = {};
      for (int part = 0; part < parts; part++) {
        for (int l = 0; l < width; l++) sums[l] += from[part * size + l];
      }
      const int first = panel * width;
      std::copy_n(sums, std::min(width, out - first), k + (size_t)i * out + first);
    }
  };
  std::unique_ptr<float[]> scratch(parts > 1 ? new float[panels * parts * size] : nullptr);
  float* all = scratch.get();  // [panels, parts, depth and height, width and in, lanes]
  parallel(pool, parts * splits, [=](int task) {
    const int part = task / splits;
    Source source(x, a, in, blocks.rows);
    // Lanes without a channel read the next place, and are not used: there is none at the end.
    const bool is_even = out % kLanes == 0 || out == kLanes / 2;
    std::vector<float> copy(is_even ? 0 : blocks.rows * row + kLanes);
    std::unique_ptr<float[]> own(parts > 1 ? nullptr : new float[size]);
    Rows m{{}, a.w.count, (size_t)a.w.stride * in, (size_t)out};
    for (int panel = task % splits; panel < panels; panel += splits) {
      const int first = panel * width;
      float* sums = parts > 1 ? all + (panel * parts + part) * size : own.get();
      std::fill(sums, sums + size, 0.f);
      blocks.of_part(part, parts, [&](int example, int q, int depth) {
        const int rows = std::min(blocks.rows, a.h.count - q);
        source.find(example, q, depth);
        const float* from = g + (((size_t)example * a.d.count + depth) * a.h.count + q) * row;
        if (!is_even) from = std::copy_n(from, rows * row, copy.data()) - rows * row;
        for (int line = 0; line < lines; line++) {
          m.pairs.clear();
          for (int i = 0; i < rows; i++) {
            const float* seen = source.row(i, line);
            if (seen) m.pairs.push_back({seen, from + i * row + first});
          }
          in_pieces(run, out - first, [&](int entry, auto l, auto v, auto t) {
            float* to = sums + ((size_t)line * run + entry) * width;
            scatter_tile<l, v, t>(m, entry, to, width);
          });
        }
      });
      if (parts == 1) write(panel, sums);
    }
  });
  if (parts != 1) parallel(pool, panels, [=](int i) { write(i, all + i * parts * size); });
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
