// Attention over a cache in 8 bit: its next entries, scores, softmax and the mixture of values.
//
// A token's key and value are rounded by their own largest magnitude, for each head alone, so an entry is the same in
// whatever step it is written. Entries lie in blocks of 16 tokens for each head: keys as [head size / 4][16][4] unsigned
// codes with zero point 128, their 16 scales, values as [16][head size] signed codes, their 16 scales.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "arithmetic.h"
#include "runtime.h"

namespace attention {

using namespace arithmetic;

constexpr int kBlock = 16;       // tokens
constexpr int kMostHead = 256;   // the widest head
constexpr int kTileRows = 24;    // queries (tokens times heads that share a key) that go over the cache together
constexpr int kScoreRows = 8;    // of them in registers at once for scores,
constexpr int kMixRows = 6;      // and for values,
constexpr int kMixParts = 4;     // so many times 16 of the head's width at a time
constexpr int kAhead = 2;        // blocks that are asked for before they are needed
constexpr float kHidden = -std::numeric_limits<float>::infinity();

enum Input : size_t {
  kQuery, kKey, kValue, kGrid, kQueryLengths, kLastPositions, kCosines, kSines, kCache, kInputs
};

struct Layout {
  int head, block_bytes;
  int64_t capacity_blocks;

  uint8_t* keys(uint8_t* head_start, int block) const { return head_start + int64_t{block} * block_bytes; }
  float* key_scales(uint8_t* keys) const { return reinterpret_cast<float*>(keys + head * kBlock); }
  int8_t* values(uint8_t* keys) const { return reinterpret_cast<int8_t*>(keys + head * kBlock + 64); }
  float* value_scales(uint8_t* keys) const { return reinterpret_cast<float*>(keys + 2 * head * kBlock + 64); }
};

// The two halves of a head are turned against each other; what lies beyond `2 * half` stays.
inline void rotate(const float* x, const float* cosines, const float* sines, int half, int head, float* out) {
  for (int i = 0; i < half; i += kLanes) {
    const __mmask16 mask = first_lanes(half - i);
    const __m512 a = _mm512_maskz_loadu_ps(mask, x + i), b = _mm512_maskz_loadu_ps(mask, x + half + i);
    const __m512 c = _mm512_maskz_loadu_ps(mask, cosines + i), s = _mm512_maskz_loadu_ps(mask, sines + i);
    _mm512_mask_storeu_ps(out + i, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
    _mm512_mask_storeu_ps(out + half + i, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
  }
  std::copy(x + 2 * half, x + head, out + 2 * half);
}

inline void write_entry(const Layout& layout, uint8_t* head_start, int position, const float* key, const float* value) {
  uint8_t* keys = layout.keys(head_start, position / kBlock);
  const int lane = position % kBlock;
  alignas(64) uint8_t codes[kMostHead];
  layout.key_scales(keys)[lane] = round_row(key, layout.head, kZeroPoint, codes);
  for (int g = 0; g < layout.head / 4; ++g) std::memcpy(keys + g * 64 + lane * 4, codes + g * 4, 4);
  auto* values = reinterpret_cast<uint8_t*>(layout.values(keys) + lane * layout.head);
  layout.value_scales(keys)[lane] = round_row(value, layout.head, 0, values);
}

struct Query {
  alignas(64) int8_t codes[kTileRows][kMostHead];
  float scales[kTileRows];        // of codes, times that of attention
  int32_t corrections[kTileRows]; // 128 times the sum of the codes
  int positions[kTileRows];
};

struct Rule {
  float cap;   // 0 is none
  int window;  // 0 is all
};

// The scores of 16 tokens for one query; those that it may not see are minus infinity.
inline __m512 scores_of(__m512i sums, const Query& q, int row, const Rule& rule, __m512 key_scales, __m512i places) {
  const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(q.corrections[row])));
  __m512 scores = _mm512_mul_ps(exact, _mm512_mul_ps(_mm512_set1_ps(q.scales[row]), key_scales));
  if (rule.cap > 0)
    scores = _mm512_mul_ps(_mm512_set1_ps(rule.cap), tanh(_mm512_mul_ps(scores, _mm512_set1_ps(1 / rule.cap))));
  const int position = q.positions[row];
  __mmask16 seen = _mm512_cmple_epi32_mask(places, _mm512_set1_epi32(position));
  if (rule.window > 0) seen &= _mm512_cmpgt_epi32_mask(places, _mm512_set1_epi32(position - rule.window));
  return _mm512_mask_mov_ps(_mm512_set1_ps(kHidden), seen, scores);
}

struct Scores {
  float* values;  // of the first query
  int64_t stride;
};

inline void fetch(const uint8_t* start, int size) {
  for (int line = 0; line < size; line += 64) _mm_prefetch(reinterpret_cast<const char*>(start + line), _MM_HINT_T0);
}

template <int... kRow>
void score(const Layout& layout, uint8_t* head_start, int first_block, int last_block, const Query& q, int row,
           const Rule& rule, const Scores& scores, std::integer_sequence<int, kRow...>) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int block = first_block; block < last_block; ++block) {
    uint8_t* keys = layout.keys(head_start, block);
    if (row == 0 && block + kAhead < last_block) fetch(layout.keys(head_start, block + kAhead), layout.block_bytes);
    const int8_t* query = q.codes[row];
    __m512i sums[sizeof...(kRow)];
    ((sums[kRow] = _mm512_setzero_si512()), ...);
    for (int g = 0; g < layout.head / 4; ++g) {
      const __m512i key = _mm512_loadu_si512(keys + g * 64);
      ((sums[kRow] = add_products(sums[kRow], key, four_codes(query + kRow * kMostHead + g * 4))), ...);
    }
    const __m512 key_scales = _mm512_loadu_ps(layout.key_scales(keys));
    const __m512i places = _mm512_add_epi32(_mm512_set1_epi32(block * kBlock), lanes);
    float* out = scores.values + (block - first_block) * kBlock;
    (_mm512_storeu_ps(out + (row + kRow) * scores.stride,
                      scores_of(sums[kRow], q, row + kRow, rule, key_scales, places)),
     ...);
  }
}

template <int kRows>
void score(const Layout& layout, uint8_t* head_start, int first_block, int last_block, const Query& q, int row,
           const Rule& rule, const Scores& scores) {
  score(layout, head_start, first_block, last_block, q, row, rule, scores, std::make_integer_sequence<int, kRows>{});
}

using Score = void (*)(const Layout&, uint8_t*, int, int, const Query&, int, const Rule&, const Scores&);
constexpr Score kScores[kScoreRows + 1] = {nullptr,  score<1>, score<2>, score<3>, score<4>,
                                           score<5>, score<6>, score<7>, score<8>};

// Softmax of a row of scores in place; what is left are weights before the division by their sum, which is returned.
inline float weigh(float* scores, int count) {
  __m512 largest = _mm512_set1_ps(kHidden);
  for (int i = 0; i < count; i += kBlock) largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores + i));
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  const __m512 hidden = _mm512_set1_ps(kHidden);
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < count; i += kBlock) {
    const __m512 score = _mm512_loadu_ps(scores + i);
    const __mmask16 seen = _mm512_cmpneq_ps_mask(score, hidden);
    const __m512 weight = _mm512_maskz_mov_ps(seen, exponential(_mm512_sub_ps(score, top)));
    sum = _mm512_add_ps(sum, weight);
    _mm512_storeu_ps(scores + i, weight);
  }
  return _mm512_reduce_add_ps(sum);
}

inline __m512 sixteen_values(const int8_t* codes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
}

// The weighted values of kRows queries, for kParts times 16 of the head's width from `start` on.
template <int kParts, int... kRow, int... kTotal>
void mix(const Layout& layout, uint8_t* head_start, int first_block, int last_block, const Scores& weights,
         const float* sums, float* const* outputs, int start, std::integer_sequence<int, kRow...>,
         std::integer_sequence<int, kTotal...>) {
  __m512 totals[sizeof...(kTotal)];
  ((totals[kTotal] = _mm512_setzero_ps()), ...);
  for (int block = first_block; block < last_block; ++block) {
    uint8_t* keys = layout.keys(head_start, block);
    const int8_t* values = layout.values(keys) + start;
    const __m512 scales = _mm512_loadu_ps(layout.value_scales(keys));
    const float* weight = weights.values + (block - first_block) * kBlock;
    alignas(64) float scaled[sizeof...(kRow)][kBlock];
    (_mm512_store_ps(scaled[kRow], _mm512_mul_ps(_mm512_loadu_ps(weight + kRow * weights.stride), scales)), ...);
    for (int k = 0; k < kBlock; ++k, values += layout.head) {
      ((totals[kTotal] = _mm512_fmadd_ps(_mm512_set1_ps(scaled[kTotal / kParts][k]),
                                         sixteen_values(values + kTotal % kParts * kLanes), totals[kTotal])),
       ...);
    }
  }
  (_mm512_storeu_ps(outputs[kTotal / kParts] + start + kTotal % kParts * kLanes,
                    _mm512_mul_ps(totals[kTotal], _mm512_set1_ps(1.0f / sums[kTotal / kParts]))),
   ...);
}

template <int kRows, int kParts>
void mix(const Layout& layout, uint8_t* head_start, int first_block, int last_block, const Scores& weights,
         const float* sums, float* const* outputs, int start) {
  mix<kParts>(layout, head_start, first_block, last_block, weights, sums, outputs, start,
              std::make_integer_sequence<int, kRows>{}, std::make_integer_sequence<int, kRows * kParts>{});
}

using Mix = void (*)(const Layout&, uint8_t*, int, int, const Scores&, const float*, float* const*, int);
template <int kParts>
constexpr Mix kMixesOf[kMixRows + 1] = {nullptr,        mix<1, kParts>, mix<2, kParts>, mix<3, kParts>,
                                        mix<4, kParts>, mix<5, kParts>, mix<6, kParts>};
constexpr const Mix* kMixes[kMixParts + 1] = {nullptr, kMixesOf<1>, kMixesOf<2>, kMixesOf<3>, kMixesOf<4>};

// Scratch of a thread: the scores of one tile over the whole cache.
struct Scratch {
  std::vector<float> scores;
  Query query;
};

// Queries 0 to `rows` of scratch, over all that they may see of a head's entries.
inline void attend(const Layout& layout, uint8_t* head_start, Scratch& scratch, int rows, const Rule& rule,
                   float* const* outputs) {
  const Query& q = scratch.query;
  const auto [least, most] = std::minmax_element(q.positions, q.positions + rows);
  const int first_block = rule.window > 0 ? std::max(*least - rule.window + 1, 0) / kBlock : 0;
  const int last_block = *most / kBlock + 1;
  const int count = (last_block - first_block) * kBlock;
  if (scratch.scores.size() < static_cast<size_t>(count) * rows) scratch.scores.resize(size_t(count) * rows);
  const Scores scores{scratch.scores.data(), count};
  for (int row = 0; row < rows; row += kScoreRows)
    kScores[std::min(kScoreRows, rows - row)](layout, head_start, first_block, last_block, q, row, rule, scores);
  float sums[kTileRows];
  for (int row = 0; row < rows; ++row) sums[row] = weigh(scores.values + row * scores.stride, count);
  for (int row = 0; row < rows; row += kMixRows) {
    const Scores weights{scores.values + row * scores.stride, scores.stride};
    const int height = std::min(kMixRows, rows - row);
    for (int start = 0; start < layout.head; start += kMixParts * kLanes) {
      const int parts = std::min(kMixParts, (layout.head - start) / kLanes);
      kMixes[parts][height](layout, head_start, first_block, last_block, weights, sums + row, outputs + row, start);
    }
  }
}

}  // namespace attention
