// Convolutions of float32 arrays, channels last, and their gradients. XLA calls them on its own
// threads.
//
// Every spatial axis is described by an `Axis`, the same for a convolution and for the gradient
// with respect to its input, so both are `gather`: each result is a sum over the window. The
// gradient with respect to the kernel is `scatter`: each place adds to all taps of the window.
// A picture is an array of depth 1.
//
// In the inner loops a vector register holds neighbouring output channels. A block of such
// sums, for several places or several taps, stays in registers. If the output has so few
// channels that they fill half a register, two examples share it (`P` is 2): lane 2 o + p
// belongs to channel o of example p.
//
// The work is divided in a way that depends on the shapes alone, and sums of parts are added in
// a fixed order, so the result has the same bits however the threads are scheduled.
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
#elif defined(__aarch64__)
constexpr int kLanes = 4, kSums = 24;  // of 32
#else
constexpr int kLanes = 4, kSums = 12;  // of 16
#endif
constexpr int kTasks = 16;       // into which a call is divided, at most
constexpr int kSource = 1 << 16;  // floats of a plane of the source that a task holds

typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int64_t Pairs __attribute__((vector_size(4 * kLanes)));

inline Lanes load(const float* from) {
  Lanes lanes;
  memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The product of `b` and P floats, which are repeated over the lanes.
template <int P>
inline Lanes times(const float* a, Lanes b) {
  if constexpr (P == 1) return *a * b;
  int64_t pair;  // integers, since a double of these bits could be a NaN
  memcpy(&pair, a, sizeof pair);
  return (Lanes)(Pairs{} + pair) * b;
}

// From lanes 2 o + p to lanes p kLanes / 2 + o.
template <size_t... I>
inline Lanes unpair(Lanes v, std::index_sequence<I...>) {
  return __builtin_shufflevector(v, v, (2 * I % kLanes + 2 * I / kLanes)...);
}

inline Lanes unpair(Lanes v) { return unpair(v, std::make_index_sequence<kLanes>()); }

// Calls f(0) ... f(n - 1) on the threads of the pool and on this one.
template <class Pool, class F>
void parallel(Pool& pool, int n, F f) {
  struct Work {
    std::atomic<int> next{0}, done{0};
    int n;
    F f;
    Work(int n, F f) : n(n), f(f) {}
    void run() {
      for (int i; (i = next.fetch_add(1)) < n;) {
        f(i);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  };
  // Shared, since a thread of the pool may come when all is done.
  auto work = std::make_shared<Work>(n, f);
  int helpers = std::min<int>(pool.num_threads(), n) - 1;
  for (int i = 0; i < helpers; i++) pool.Schedule([work] { work->run(); });
  work->run();
  for (int spins = 0; work->done.load(std::memory_order_acquire) < n; spins++) {
    if (spins > 2000) std::this_thread::yield();
  }
}

// Result `first + step * q` is a sum over places `stride * q + offset + t` of the source, each
// multiplied by tap `tap + next * t` of the kernel; q < count, t < taps.
struct Axis {
  int source, result, count, first, step, stride, offset, taps, tap, next;
};

// A convolution over one axis. Input place p meets output place i and tap j if
// p + low = stride * i + j.
struct Spatial {
  int in, out, window, stride, low;

  Axis forward() const { return {in, out, out, 0, 1, stride, -low, window, 0, 1}; }

  // The gradient with respect to the input, at the places p = phase + stride * q: the taps
  // that meet them are `stride` apart.
  Axis backward(int phase) const {
    int count = std::max(0, ceil_div(in - phase, stride)), rest = (phase + low) % stride;
    int taps = std::max(0, (window - rest + stride - 1) / stride);
    int offset = (phase + low) / stride - taps + 1;
    return {out, in, count, phase, stride, 1, offset, taps, rest + stride * (taps - 1), -stride};
  }

  // The places of the output, each alone.
  Axis places() const { return {out, out, out, 0, 1, 1, 0, 1, 0, 1}; }
};

// The rows of the source that the windows of a block of rows meet, with zeros around them and
// P examples side by side. Planes are kept for the next depth.
template <int P>
class Source {
 public:
  // `channels` of `all` channels, from `channel` on; zeros fill them up to `padded`.
  Source(const float* x, int examples, const Axis* axes, int all, int channel, int channels,
         int padded, int block)
      : x_(x), examples_(examples), d_(axes[0]), h_(axes[1]), w_(axes[2]), all_(all),
        channel_(channel), channels_(channels), padded_(padded),
        width_((w_.count - 1) * w_.stride + w_.taps) {
    rows = (block - 1) * h_.stride + h_.taps;
    size_ = (size_t)rows * width_ * padded * P;
    is_direct_ = P == 1 && channels == all && padded == all && w_.offset >= 0 &&
                 w_.offset + width_ <= w_.source;
    buffer_.resize(is_direct_ ? (size_t)width_ * all : size_ * d_.taps);
    kept_.assign(d_.taps, INT_MIN);
    table_.resize((size_t)d_.taps * rows);
  }

  int rows;  // in a plane of the table

  // A table of pointers to the rows, for the result's row q and the rows that follow.
  const float* const* at(int group, int depth, int q) {
    if (group != group_ || q != q_) kept_.assign(d_.taps, INT_MIN);
    group_ = group, q_ = q;
    for (int t = 0; t < d_.taps; t++) {
      int z = depth * d_.stride + d_.offset + t;
      int slot = (z % d_.taps + d_.taps) % d_.taps;
      bool is_new = kept_[slot] != z;
      kept_[slot] = z;
      for (int r = 0; r < rows; r++) {
        int y = q * h_.stride + h_.offset + r;
        bool is_inside = z >= 0 && z < d_.source && y >= 0 && y < h_.source;
        float* to = &buffer_[slot * size_ + (size_t)r * width_ * padded_ * P];
        if (is_direct_) {
          const float* row = is_inside ? place(group, z, y) : buffer_.data();
          table_[t * rows + r] = is_inside ? row + (size_t)w_.offset * all_ : row;
          continue;
        }
        table_[t * rows + r] = to;
        if (is_new) fill(to, group, z, y, is_inside);
      }
    }
    return table_.data();
  }

 private:
  const float* place(int example, int z, int y) const {
    return x_ + (((size_t)example * d_.source + z) * h_.source + y) * w_.source * all_;
  }

  void fill(float* to, int group, int z, int y, bool is_inside) const {
    int begin = std::clamp(-w_.offset, 0, width_);
    int end = is_inside ? std::clamp(w_.source - w_.offset, begin, width_) : begin;
    size_t unit = (size_t)padded_ * P;
    std::fill(to, to + begin * unit, 0.f);
    std::fill(to + end * unit, to + width_ * unit, 0.f);
    if (begin == end) return;
    to += begin * unit;
    const float* from = place(group * P, z, y) + (size_t)(begin + w_.offset) * all_ + channel_;
    // The last one of an odd number of examples is paired with zeros.
    size_t other = group * P + 1 < examples_ ? place(1, 0, 0) - place(0, 0, 0) : 0;
    bool is_whole = channels_ == all_ && padded_ == all_;
    int pieces = is_whole ? 1 : end - begin, length = is_whole ? (end - begin) * all_ : channels_;
    for (int i = 0; i < pieces; i++, to += unit, from += all_) {
      if constexpr (P == 1) {
        memcpy(to, from, length * sizeof(float));
      } else if (other) {
        for (int j = 0; j < length; j++) to[2 * j] = from[j], to[2 * j + 1] = from[other + j];
      } else {
        for (int j = 0; j < length; j++) to[2 * j] = from[j], to[2 * j + 1] = 0.f;
      }
    }
  }

  const float* x_;
  int examples_;
  Axis d_, h_, w_;
  int all_, channel_, channels_, padded_, width_;
  size_t size_;
  bool is_direct_;
  std::vector<float> buffer_;
  std::vector<int> kept_;
  std::vector<const float*> table_;
  int group_ = -1, q_ = -1;
};

// So many rows that the source of a task fits into a cache.
int rows_in_block(const Axis& h, const Axis& w, int channels) {
  int row = std::max(1, h.stride * ((w.count - 1) * w.stride + w.taps) * channels);
  int blocks = ceil_div(h.count, std::clamp(kSource / row, 1, h.count));
  return ceil_div(h.count, blocks);
}

// --- the convolution, and the gradient with respect to its input

// The rows that a tile of results meets.
struct Window {
  const float* const* rows;
  int planes, plane, taps, run, step, width;
};

// T places of the result, V registers of channels each.
template <int P, int V, int T>
void gather_tile(const Window& m, size_t shift, const float* panel, float* const* y,
                 size_t y_step, int valid) {
  Lanes sums[T][V] = {};
  for (int d = 0; d < m.planes; d++) {
    for (int h = 0; h < m.taps; h++) {
      const float* x = m.rows[d * m.plane + h] + shift;
      for (int i = 0; i < m.run; i++, x += P, panel += m.width) {
        Lanes k[V];
        for (int v = 0; v < V; v++) k[v] = load(panel + v * kLanes);
        for (int t = 0; t < T; t++) {
          for (int v = 0; v < V; v++) sums[t][v] += times<P>(x + t * m.step, k[v]);
        }
      }
    }
  }
  constexpr int kOut = kLanes / P;
  for (int v = 0; v < V; v++) {
    int n = std::min(kOut, valid - v * kOut);
    for (int t = 0; t < T; t++) {
      Lanes sum = P == 1 ? sums[t][v] : unpair(sums[t][v]);
      for (int p = 0; p < P; p++) {
        if (!y[p]) continue;
        float* to = y[p] + t * y_step + v * kOut;
        if (n == kOut) {
          memcpy(to, (const float*)&sum + p * kOut, kOut * sizeof(float));
        } else {
          memcpy(to, (const float*)&sum + p * kOut, n * sizeof(float));
        }
      }
    }
  }
}

using GatherTile = void (*)(const Window&, size_t, const float*, float* const*, size_t, int);

template <int P, int V, size_t... T>
constexpr std::array<GatherTile, sizeof...(T)> gather_tiles(std::index_sequence<T...>) {
  return {gather_tile<P, V, (int)T + 1>...};
}

constexpr int most_places(int registers) { return std::min(kSums / registers, 16); }

// One row of results, in tiles of about equal size.
template <int P, int V>
void gather_row(const Window& m, int places, const float* panel, float* const* y, size_t y_step,
                int valid) {
  constexpr int kMost = most_places(V);
  static constexpr auto tiles = gather_tiles<P, V>(std::make_index_sequence<kMost>());
  int pieces = ceil_div(places, kMost);
  for (int piece = 0; piece < pieces; piece++) {
    int begin = places * piece / pieces, end = places * (piece + 1) / pieces;
    float* to[P];
    for (int p = 0; p < P; p++) to[p] = y[p] ? y[p] + begin * y_step : nullptr;
    tiles[end - begin - 1](m, (size_t)begin * m.step, panel, to, y_step, valid);
  }
}

struct Kernel {
  const float* taps;
  int window[3];
  size_t in_step, out_step, tap_step;
};

template <int P, class Pool>
void gather(Pool& pool, const float* x, const Kernel& kernel, float* y, int examples,
            const Axis* axes, int in, int out) {
  const Axis &d = axes[0], &h = axes[1], &w = axes[2];
  if (!examples || !d.count || !h.count || !w.count) return;
  constexpr int kOut = kLanes / P;
  const int registers = P == 1 && out > kOut ? 2 : 1, width = registers * kLanes;
  const int blocks = ceil_div(out, registers * kOut), run = w.taps * in;
  // The kernel in the order in which it is read: [blocks, depth, height, width, in, lanes].
  const int lines = d.taps * h.taps;
  const size_t panel = (size_t)lines * run * width;
  std::unique_ptr<float[]> packed(new float[std::max<size_t>(1, blocks * panel)]);
  float* panels = packed.get();
  auto pack = [=](int i) {
    int block = i / lines, z = d.tap + d.next * (i % lines / h.taps);
    int r = h.tap + h.next * (i % h.taps);
    float* to = panels + (size_t)i * run * width;
    for (int t = 0; t < w.taps; t++) {
      size_t tap = ((size_t)z * kernel.window[1] + r) * kernel.window[2] + w.tap + w.next * t;
      for (int c = 0; c < in; c++, to += width) {
        const float* from = kernel.taps + tap * kernel.tap_step + c * kernel.in_step;
        for (int l = 0; l < width; l++) {
          int o = block * registers * kOut + l / P;
          to[l] = o < out ? from[o * kernel.out_step] : 0.f;
        }
      }
    }
  };
  if (blocks * panel < 1 << 16) {
    for (int i = 0; i < blocks * lines; i++) pack(i);
  } else {
    parallel(pool, blocks * lines, pack);
  }

  const int rows = rows_in_block(h, w, in * P), bands = ceil_div(h.count, rows);
  const int items = ceil_div(examples, P) * bands * d.count, chunks = std::min(items, kTasks);
  const int splits = std::min(blocks, std::max(1, kTasks / chunks));
  parallel(pool, chunks * splits, [=, axes = std::array{d, h, w}](int task) {
    const Axis &d = axes[0], &h = axes[1], &w = axes[2];
    int chunk = task / splits, split = task % splits;
    Source<P> source(x, examples, axes.data(), in, 0, in, in, rows);
    Window m{nullptr, d.taps, source.rows, h.taps, run, w.stride * in * P, width};
    int begin = (int64_t)items * chunk / chunks, end = (int64_t)items * (chunk + 1) / chunks;
    for (int item = begin; item < end; item++) {
      int depth = item % d.count, band = item / d.count % bands, group = item / d.count / bands;
      int q = band * rows, last = std::min(q + rows, h.count);
      const float* const* table = source.at(group, depth, q);
      for (int b = blocks * split / splits; b < blocks * (split + 1) / splits; b++) {
        int o = b * registers * kOut, valid = out - o;
        for (int i = q; i < last; i++) {
          m.rows = table + (i - q) * h.stride;
          float* to[P];
          for (int p = 0; p < P; p++) {
            size_t row = (size_t)(group * P + p) * d.result + d.first + d.step * depth;
            row = (row * h.result + h.first + h.step * i) * w.result + w.first;
            to[p] = group * P + p < examples ? y + row * out + o : nullptr;
          }
          if (P == 1 && registers == 2 && valid > kOut) {
            gather_row<P, 2 / P>(m, w.count, panels + b * panel, to, w.step * out, valid);
          } else {
            gather_row<P, 1>(m, w.count, panels + b * panel, to, w.step * out, valid);
          }
        }
      }
    }
  });
}

// --- the gradient with respect to the kernel

// The rows of input and gradient that a tile of the kernel sums over.
struct Places {
  const float *const *x, *const *g;
  int rows, x_rows, count;
  size_t x_step, g_step;
};

// T neighbouring entries of [width in], V registers of output channels each, are added to
// `sums [T][V * kOut]`.
template <int P, int V, int T>
void scatter_tile(const Places& m, size_t x_shift, size_t g_shift, float* const* to, int valid) {
  Lanes sums[T][V] = {};
  for (int r = 0; r < m.rows; r++) {
    const float *x = m.x[r * m.x_rows] + x_shift, *g = m.g[r] + g_shift;
    for (int i = 0; i < m.count; i++, x += m.x_step, g += m.g_step) {
      Lanes b[V];
      for (int v = 0; v < V; v++) b[v] = load(g + v * kLanes);
      for (int t = 0; t < T; t++) {
        for (int v = 0; v < V; v++) sums[t][v] += times<P>(x + t * P, b[v]);
      }
    }
  }
  constexpr int kOut = kLanes / P;
  for (int t = 0; t < T; t++) {
    for (int v = 0; v < V; v++) {
      int n = std::min(kOut, valid - v * kOut);
      float lanes[kLanes];
      Lanes sum = P == 1 ? sums[t][v] : unpair(sums[t][v]);
      memcpy(lanes, &sum, sizeof sum);
      for (int p = 1; p < P; p++) {
        for (int o = 0; o < kOut; o++) lanes[o] += lanes[p * kOut + o];
      }
      for (int o = 0; o < n; o++) to[t][v * kOut + o] += lanes[o];
    }
  }
}

using ScatterTile = void (*)(const Places&, size_t, size_t, float* const*, int);

template <int P, int V, size_t... T>
constexpr std::array<ScatterTile, sizeof...(T)> scatter_tiles(std::index_sequence<T...>) {
  return {scatter_tile<P, V, (int)T + 1>...};
}

// One line of the kernel, [width in], for V registers of output channels.
template <int P, int V>
void scatter_line(const Places& m, int channels, int run, size_t g_shift, float* to,
                  size_t tap_step, size_t in_step, int valid) {
  constexpr int kMost = most_places(V);
  static constexpr auto tiles = scatter_tiles<P, V>(std::make_index_sequence<kMost>());
  int pieces = ceil_div(run, kMost);
  for (int piece = 0; piece < pieces; piece++) {
    int begin = run * piece / pieces, end = run * (piece + 1) / pieces;
    float* at[kMost];
    for (int i = begin; i < end; i++) {
      at[i - begin] = to + i / channels * tap_step + i % channels * in_step;
    }
    tiles[end - begin - 1](m, (size_t)begin * P, g_shift, at, valid);
  }
}

template <int P, class Pool>
void scatter(Pool& pool, const float* x, const float* g, float* kernel, int examples,
             const Spatial* spatial, int in, int out) {
  std::array<Axis, 3> axes, places;
  for (int i = 0; i < 3; i++) axes[i] = spatial[i].forward(), places[i] = spatial[i].places();
  const Axis &d = axes[0], &h = axes[1], &w = axes[2];
  constexpr int kOut = kLanes / P;
  const int padded = ceil_div(out, kOut) * kOut;
  const size_t size = (size_t)d.taps * h.taps * w.taps * in * out;
  std::fill(kernel, kernel + size, 0.f);
  if (!examples || !d.count || !h.count || !w.count) return;
  // Many input channels are divided among the tasks, otherwise the places are: each part of
  // them needs a kernel of its own.
  const int splits = std::clamp(in / 16, 1, kTasks);
  const int rows = rows_in_block(h, w, ceil_div(in, splits) * P), bands = ceil_div(h.count, rows);
  const int items = ceil_div(examples, P) * bands * d.count;
  const int parts = std::min(items, kTasks / splits);
  std::vector<float> others((parts - 1) * size);
  float* scratch = others.data();
  parallel(pool, parts * splits, [=](int task) {
    const Axis &d = axes[0], &h = axes[1], &w = axes[2];
    int part = task / splits, split = task % splits;
    int channel = in * split / splits, channels = in * (split + 1) / splits - channel;
    float* sums = part ? scratch + (part - 1) * size : kernel;
    Source<P> xs(x, examples, axes.data(), in, channel, channels, channels, rows);
    Source<P> gs(g, examples, places.data(), out, 0, out, padded, rows);
    Places m{};
    m.count = w.count, m.x_rows = h.stride;
    m.x_step = (size_t)w.stride * channels * P, m.g_step = (size_t)padded * P;
    int begin = (int64_t)items * part / parts, end = (int64_t)items * (part + 1) / parts;
    for (int item = begin; item < end; item++) {
      int depth = item % d.count, band = item / d.count % bands, group = item / d.count / bands;
      int q = band * rows;
      m.rows = std::min(rows, h.count - q);
      const float* const* table = xs.at(group, depth, q);
      m.g = gs.at(group, depth, q);
      for (int line = 0; line < d.taps * h.taps; line++) {
        m.x = table + line / h.taps * xs.rows + line % h.taps;
        size_t tap = (size_t)in * out;
        float* to = sums + line * w.taps * tap + (size_t)channel * out;
        for (int o = 0; o < out;) {
          int valid = out - o, run = w.taps * channels;
          if (P == 1 && valid > kOut) {
            scatter_line<P, 2 / P>(m, channels, run, o * P, to + o, tap, out, valid);
            o += 2 * kOut;
          } else {
            scatter_line<P, 1>(m, channels, run, o * P, to + o, tap, out, valid);
            o += kOut;
          }
        }
      }
    }
  });
  for (int part = 1; part < parts; part++) {
    for (size_t i = 0; i < size; i++) kernel[i] += scratch[(part - 1) * size + i];
  }
}

// --- the three calls

struct Shape {
  int examples, in, out;
  Spatial spatial[3];

  // x: [examples, spatial, in], y: [examples, spatial, out], k: [window, in, out].
  template <class Sizes>
  Shape(Sizes x, Sizes y, Sizes k, Sizes strides, Sizes lows) {
    int n = k.size() - 2;
    examples = x[0], in = k[n], out = k[n + 1];
    for (int i = 0; i < 3 - n; i++) spatial[i] = {1, 1, 1, 1, 0};
    for (int i = 0; i < n; i++) {
      spatial[3 - n + i] = {(int)x[i + 1], (int)y[i + 1], (int)k[i], (int)strides[i],
                            (int)lows[i]};
    }
  }

  Kernel kernel(const float* k, size_t in_step, size_t out_step) const {
    const Spatial* s = spatial;
    return {k, {s[0].window, s[1].window, s[2].window}, in_step, out_step, (size_t)in * out};
  }

  bool has_pairs(int channels) const { return examples > 1 && channels <= kLanes / 2; }
};

template <class Pool>
void output(Pool& pool, const Shape& s, const float* x, const float* k, float* y) {
  Axis axes[] = {s.spatial[0].forward(), s.spatial[1].forward(), s.spatial[2].forward()};
  auto call = s.has_pairs(s.out) ? gather<2, Pool> : gather<1, Pool>;
  call(pool, x, s.kernel(k, s.out, 1), y, s.examples, axes, s.in, s.out);
}

template <class Pool>
void input_gradient(Pool& pool, const Shape& s, const float* g, const float* k, float* x) {
  const Spatial *a = s.spatial, *b = a + 1, *c = a + 2;
  auto call = s.has_pairs(s.in) ? gather<2, Pool> : gather<1, Pool>;
  for (int phase = 0; phase < a->stride * b->stride * c->stride; phase++) {
    Axis axes[] = {a->backward(phase / (b->stride * c->stride)),
                   b->backward(phase / c->stride % b->stride), c->backward(phase % c->stride)};
    call(pool, g, s.kernel(k, 1, s.out), x, s.examples, axes, s.out, s.in);
  }
}

template <class Pool>
void kernel_gradient(Pool& pool, const Shape& s, const float* x, const float* g, float* k) {
  auto call = s.has_pairs(s.out) ? scatter<2, Pool> : scatter<1, Pool>;
  call(pool, x, g, k, s.examples, s.spatial, s.in, s.out);
}

}  // namespace

#ifndef WITHOUT_XLA
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Pool = ffi::ThreadPool;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;
using Ints = ffi::Span<const int64_t>;

static ffi::Error Output(Pool pool, Array x, Array k, Result y, Ints strides, Ints lows) {
  Shape shape(x.dimensions(), y->dimensions(), k.dimensions(), strides, lows);
  output(pool, shape, x.typed_data(), k.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

static ffi::Error Input(Pool pool, Array g, Array k, Result x, Ints strides, Ints lows) {
  Shape shape(x->dimensions(), g.dimensions(), k.dimensions(), strides, lows);
  input_gradient(pool, shape, g.typed_data(), k.typed_data(), x->typed_data());
  return ffi::Error::Success();
}

static ffi::Error Kernels(Pool pool, Array x, Array g, Result k, Ints strides, Ints lows) {
  Shape shape(x.dimensions(), g.dimensions(), k->dimensions(), strides, lows);
  kernel_gradient(pool, shape, x.typed_data(), g.typed_data(), k->typed_data());
  return ffi::Error::Success();
}

#define DEFINE(name, function)                                                   \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,                                  \
                                ffi::Ffi::Bind()                                 \
                                    .Ctx<Pool>()                                 \
                                    .Arg<Array>()                                \
                                    .Arg<Array>()                                \
                                    .Ret<Array>()                                \
                                    .Attr<Ints>("strides")                       \
                                    .Attr<Ints>("lows"))
DEFINE(output_call, Output);
DEFINE(input_call, Input);
DEFINE(kernel_call, Kernels);
#endif
