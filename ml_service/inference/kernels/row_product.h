// A product of rows with a packed matrix in 8 bit; norm and rounding before it, bias, residual or gate after it.
#pragma once
#include <algorithm>
#include <vector>

#include "arithmetic.h"
#include "runtime.h"

namespace row_product {

using namespace arithmetic;

constexpr int kPanel = 32;       // columns that lie together: [panel][inputs / 4][32][4]
constexpr int kAhead = 6144;     // bytes of the matrix that are asked for before they are needed
constexpr int kMostRows = 12;    // in registers at once: 24 accumulators
constexpr int kAheadOfNext = 32768;  // of the next product's, by each thread while it waits for the others
constexpr int kFewValues = 8192; // so few are rounded by every thread for itself: cheaper than to wait for each other

enum Input : size_t { kX, kCodes, kScales, kCorrections, kBias, kNorm, kResidual, kNext, kInputs };

// Where a part begins, of `parts` that make up the whole.
inline int first_of(int whole, size_t part, int parts) { return static_cast<int>(static_cast<int64_t>(whole) * part / parts); }

struct Matrix {
  const int8_t* codes;
  const float* scales;          // of each column
  const int32_t* corrections;   // 128 times the sum of each column's codes
  const float* bias;            // or null
  int groups, panels;           // of four inputs, of kPanel columns

  int64_t panel_bytes() const { return int64_t{groups} * kPanel * 4; }

  // Asks for the beginning of a part.
  void fetch(size_t part, int parts) const {
    const int8_t* at = codes + first_of(panels, part, parts) * panel_bytes();
    const int8_t* end = codes + first_of(panels, part + 1, parts) * panel_bytes();
    if (end - at > kAheadOfNext) end = at + kAheadOfNext;
    for (; at < end; at += 64) _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
  }
};

struct Rows {
  const uint8_t* codes;
  const float* scales;
  int stride;
};

struct Target {
  float* values;
  const float* residual;  // or null
  int width;
  bool is_gated;
};

// What does not change between the rows of a tile, for 16 columns.
struct Columns {
  __m512i correction;
  __m512 scale, bias;

  Columns(const Matrix& m, int at)
      : correction(_mm512_loadu_si512(m.corrections + at)),
        scale(_mm512_loadu_ps(m.scales + at)),
        bias(m.bias ? _mm512_loadu_ps(m.bias + at) : _mm512_setzero_ps()) {}

  __m512 value(__m512i sum, __m512 row_scale) const {
    const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, correction));
    return _mm512_fmadd_ps(exact, _mm512_mul_ps(row_scale, scale), bias);
  }
};

__attribute__((always_inline)) inline void store(const Target& t, int64_t start, int at, __m512 value) {
  const __mmask16 mask = first_lanes(t.width - at);
  if (t.residual) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, t.residual + start + at));
  _mm512_mask_storeu_ps(t.values + start + at, mask, value);
}

__attribute__((always_inline)) inline void finish(__m512i left, __m512i right, const Columns& lefts, const Columns& rights, float row_scale, int row,
                   int column, const Target& t) {
  const __m512 scale = _mm512_set1_ps(row_scale);
  const __m512 a = lefts.value(left, scale), b = rights.value(right, scale);
  const int64_t start = static_cast<int64_t>(row) * t.width;
  if (t.is_gated) return store(t, start, column / 2, _mm512_mul_ps(silu(a), b));
  store(t, start, column, a);
  store(t, start, column + kLanes, b);
}

inline __m512i dot(__m512i sum, const uint8_t* x, const int8_t* w) {
  return add_products(sum, four_codes(x), _mm512_loadu_si512(w));
}

// One panel for kRows rows. There are kSets sets of sums, so that few rows don't wait for the latency of an addition.
// Packs rather than loops: gcc keeps the sums in registers only where every index is a constant from the start.
template <int kRows, int kSets, int... kSums, int... kRow>
inline void tile(const Rows& rows, const Matrix& m, int panel, int row, const Target& t,
                 std::integer_sequence<int, kSums...>, std::integer_sequence<int, kRow...>) {
  constexpr int kStep = kPanel * 4;
  const int8_t* w = m.codes + static_cast<int64_t>(panel) * m.groups * kStep;
  const uint8_t* x = rows.codes + static_cast<int64_t>(row) * rows.stride;
  const int64_t stride = rows.stride;
  __m512i left[kRows * kSets], right[kRows * kSets];
  ((left[kSums] = right[kSums] = _mm512_setzero_si512()), ...);
  int g = 0;
  for (; g + kSets <= m.groups; g += kSets, w += kSets * kStep, x += kSets * 4) {
    for (int ahead = 0; ahead < kSets * kStep; ahead += 64) _mm_prefetch(reinterpret_cast<const char*>(w) + kAhead + ahead, _MM_HINT_T0);
    ((left[kSums] = dot(left[kSums], x + kSums % kRows * stride + kSums / kRows * 4, w + kSums / kRows * kStep),
      right[kSums] = dot(right[kSums], x + kSums % kRows * stride + kSums / kRows * 4, w + kSums / kRows * kStep + 64)),
     ...);
  }
  for (; g < m.groups; ++g, w += kStep, x += 4)
    ((left[kRow] = dot(left[kRow], x + kRow * stride, w), right[kRow] = dot(right[kRow], x + kRow * stride, w + 64)), ...);
  ((left[kSums % kRows] = kSums < kRows ? left[kSums] : _mm512_add_epi32(left[kSums % kRows], left[kSums]),
    right[kSums % kRows] = kSums < kRows ? right[kSums] : _mm512_add_epi32(right[kSums % kRows], right[kSums])),
   ...);
  const int column = panel * kPanel;
  const Columns lefts(m, column), rights(m, column + kLanes);
  (finish(left[kRow], right[kRow], lefts, rights, rows.scales[row + kRow], row + kRow, column, t), ...);
}

template <int kRows, int kSets>
void tile(const Rows& rows, const Matrix& m, int panel, int row, const Target& t) {
  tile<kRows, kSets>(rows, m, panel, row, t, std::make_integer_sequence<int, kRows * kSets>{},
                     std::make_integer_sequence<int, kRows>{});
}

using Tile = void (*)(const Rows&, const Matrix&, int, int, const Target&);
constexpr Tile kTiles[kMostRows + 1] = {
    nullptr,    tile<1, 4>, tile<2, 2>, tile<3, 2>,  tile<4, 2>,  tile<5, 1>,  tile<6, 1>,
    tile<7, 1>, tile<8, 1>, tile<9, 1>, tile<10, 1>, tile<11, 1>, tile<12, 1>,
};

// A part of the panels for all rows, in tiles of nearly equal height.
inline void multiply(const Rows& rows, int count, const Matrix& m, size_t part, int parts, const Target& t) {
  const int tiles = (count + kMostRows - 1) / kMostRows;
  for (int panel = first_of(m.panels, part, parts); panel < first_of(m.panels, part + 1, parts); ++panel) {
    for (int i = 0; i < tiles; ++i) {
      const int start = count * i / tiles, end = count * (i + 1) / tiles;
      kTiles[end - start](rows, m, panel, start, t);
    }
  }
}

// What is multiplied, before it is rounded.
struct Operand {
  const float *x, *norm;  // norm may be null
  float epsilon;
  int count, inputs, stride;

  float round(int row, uint8_t* codes) const {
    const float* values = x + static_cast<int64_t>(row) * inputs;
    return norm ? round_normed_row(values, norm, epsilon, inputs, codes) : round_row(values, inputs, kZeroPoint, codes);
  }
};

struct Kernel {
  runtime::Api api;
  int width, threads;
  bool is_gated;
  float epsilon;
  Matrix matrix{}, next{};  // and norm: initializers, so they are asked for once
  const float* norm = nullptr;
  std::vector<uint8_t> codes;  // a session computes one step at a time
  std::vector<float> scales;

  Kernel(runtime::Table table, const runtime::Info* info)
      : api(table),
        width(static_cast<int>(api.integer(info, "width", 0))),
        threads(static_cast<int>(api.integer(info, "threads", 1))),
        is_gated(api.integer(info, "gated", 0) != 0),
        epsilon(api.number(info, "epsilon", 0.0f)) {}

  runtime::Status* compute(runtime::Context* context) {
    int64_t shape[2];
    const runtime::Value* x = api.input(context, kX);
    if (api.sizes(x, shape, 2) != 2) return api.error("RowProduct: x is not (rows, inputs)");
    if (!matrix.codes) find_initializers(context);
    const int count = static_cast<int>(shape[0]), inputs = static_cast<int>(shape[1]);
    if (inputs > matrix.groups * 4) return api.error("RowProduct: the matrix has fewer inputs than x");
    const Operand operand{api.data<const float>(x), norm, epsilon, count, inputs, round_up(inputs, 64)};
    const int64_t out_shape[2] = {count, width};
    const Target t{api.data<float>(api.output(context, out_shape, 2)),
                   api.data<const float>(api.input(context, kResidual)), width, is_gated};
    if (count == 0) return nullptr;
    const bool is_large = matrix.panels * matrix.panel_bytes() * count > 4'000'000;
    const int parts = std::min(matrix.panels, is_large ? threads * 4 : threads);
    if (static_cast<int64_t>(count) * operand.stride <= kFewValues)
      multiply_few(context, operand, t, parts);
    else
      multiply_many(context, operand, t, parts);
    return nullptr;
  }

 private:
  void find_initializers(const runtime::Context* context) {
    const auto input = [&](Input which) { return api.input(context, which); };
    norm = api.data<const float>(input(kNorm));
    next = matrix_of(input(kNext));
    matrix = matrix_of(input(kCodes));
    matrix.scales = api.data<const float>(input(kScales));
    matrix.corrections = api.data<const int32_t>(input(kCorrections));
    matrix.bias = api.data<const float>(input(kBias));
  }

  Matrix matrix_of(const runtime::Value* codes) const {
    int64_t sizes[2] = {0, 0};  // panels, groups
    if (codes) api.sizes(codes, sizes, 2);
    return {api.data<const int8_t>(codes), nullptr, nullptr, nullptr, static_cast<int>(sizes[1]), static_cast<int>(sizes[0])};
  }

  // Few rows are rounded by every thread for itself, and their next product's matrix is asked for as soon as a thread
  // is done: so few are as fast as the memory.
  void multiply_few(const runtime::Context* context, const Operand& operand, const Target& t, int parts) const {
    auto work = [&](size_t part) {
      alignas(64) thread_local uint8_t own_codes[kFewValues];
      thread_local float own_scales[kFewValues / 64];
      for (int row = 0; row < operand.count; ++row)
        own_scales[row] = operand.round(row, own_codes + row * operand.stride);
      multiply(Rows{own_codes, own_scales, operand.stride}, operand.count, matrix, part, parts, t);
      if (next.codes && parts == threads) next.fetch(part, parts);
    };
    runtime::parallel(api, context, parts, work);
  }

  void multiply_many(const runtime::Context* context, const Operand& operand, const Target& t, int parts) {
    codes.resize(static_cast<size_t>(operand.count) * operand.stride);
    scales.resize(operand.count);
    const int row_parts = std::min(operand.count, threads * 4);
    auto round = [&](size_t part) {
      for (int row = first_of(operand.count, part, row_parts); row < first_of(operand.count, part + 1, row_parts); ++row)
        scales[row] = operand.round(row, codes.data() + static_cast<int64_t>(row) * operand.stride);
    };
    runtime::parallel(api, context, row_parts, round);
    const Rows rows{codes.data(), scales.data(), operand.stride};
    auto work = [&](size_t part) { multiply(rows, operand.count, matrix, part, parts, t); };
    runtime::parallel(api, context, parts, work);
  }
};

constexpr int kInputTypes[kInputs] = {runtime::kFloat, runtime::kInt8,  runtime::kFloat, runtime::kInt32,
                                      runtime::kFloat, runtime::kFloat, runtime::kFloat, runtime::kInt8};
constexpr bool is_optional(size_t input) { return input >= kBias; }

}  // namespace row_product
