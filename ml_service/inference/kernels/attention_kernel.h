// The operator around attention.h: rotary embedding, which queries go together and on which thread.
#pragma once
#include "attention.h"

namespace attention {

struct Piece {
  int row, start, count;  // places of a row of the grid
};

struct Step {
  const float *query, *key, *value;
  int64_t query_stride, key_stride;
  const int64_t* grid;
  int64_t grid_length;
  const int32_t *query_lengths, *last_positions;
  const float *cosines, *sines;
  uint8_t* cache;
  float* output;
  int half;  // of what is rotated
};

struct Kernel {
  runtime::Api api;
  int heads, key_heads;
  float scale;
  Rule rule;
  const float *cosines = nullptr, *sines = nullptr;  // initializers, so they are asked for once
  int half = 0;
  std::vector<Piece> pieces;

  Kernel(runtime::Table table, const runtime::Info* info)
      : api(table),
        heads(static_cast<int>(api.integer(info, "heads", 1))),
        key_heads(static_cast<int>(api.integer(info, "key_heads", 1))),
        scale(api.number(info, "scale", 1.0f)),
        rule{api.number(info, "cap", 0.0f), static_cast<int>(api.integer(info, "window", 0))} {}

  runtime::Status* compute(runtime::Context* context) {
    int64_t query_shape[2], grid_shape[2], cache_shape[4];
    const runtime::Value *query = api.input(context, kQuery), *grid = api.input(context, kGrid);
    const runtime::Value *cache = api.input(context, kCache), *key = api.input(context, kKey);
    if (api.sizes(query, query_shape, 2) != 2 || api.sizes(grid, grid_shape, 2) != 2 || api.sizes(cache, cache_shape, 4) != 4)
      return api.error("CachedAttention: an input has the wrong number of axes");
    if (!cosines && !find_tables(context)) return api.error("CachedAttention: the tables have the wrong number of axes");
    const int head = static_cast<int>(query_shape[1] / (key ? heads : heads + 2 * key_heads));
    const Layout layout{head, static_cast<int>(cache_shape[3]), cache_shape[2]};
    if (head % kLanes || head > kMostHead || layout.block_bytes != 2 * head * kBlock + 128)
      return api.error("CachedAttention: the cache is not laid out for this head");
    const int64_t out_shape[2] = {query_shape[0], int64_t{heads} * head};
    Step s{};
    s.query = api.data<const float>(query);
    s.key = key ? api.data<const float>(key) : s.query + heads * head;
    s.value = key ? api.data<const float>(api.input(context, kValue)) : s.key + key_heads * head;
    s.query_stride = query_shape[1];
    s.key_stride = key ? int64_t{key_heads} * head : query_shape[1];
    s.grid = api.data<const int64_t>(grid);
    s.grid_length = grid_shape[1];
    s.query_lengths = api.data<const int32_t>(api.input(context, kQueryLengths));
    s.last_positions = api.data<const int32_t>(api.input(context, kLastPositions));
    s.cosines = cosines;
    s.sines = sines;
    s.cache = api.data<uint8_t>(cache);
    s.half = half;
    s.output = api.data<float>(api.output(context, out_shape, 2));
    for (int64_t row = 0; row < grid_shape[0]; ++row)
      if (s.query_lengths[row] > 0 && s.last_positions[row] / kBlock >= layout.capacity_blocks)
        return api.error("CachedAttention: a token has no place in the cache");
    run(context, layout, s, static_cast<int>(grid_shape[0]));
    return nullptr;
  }

 private:
  bool find_tables(const runtime::Context* context) {
    int64_t shape[2];
    if (api.sizes(api.input(context, kCosines), shape, 2) != 2) return false;
    half = static_cast<int>(shape[1]);
    cosines = api.data<const float>(api.input(context, kCosines));
    sines = api.data<const float>(api.input(context, kSines));
    return true;
  }

  int position_of(const Step& s, int row, int place) const {
    return s.last_positions[row] - s.query_lengths[row] + 1 + place;
  }

  uint8_t* head_start(const Layout& layout, const Step& s, int row, int key_head) const {
    return s.cache + (int64_t{row} * key_heads + key_head) * layout.capacity_blocks * layout.block_bytes;
  }

  void write(const Layout& layout, const Step& s, const Piece& piece, int key_head) const {
    alignas(64) float rotated[kMostHead];
    for (int place = piece.start; place < piece.start + piece.count; ++place) {
      const int64_t token = s.grid[piece.row * s.grid_length + place];
      const int position = position_of(s, piece.row, place);
      const int64_t from = token * s.key_stride + int64_t{key_head} * layout.head;
      rotate(s.key + from, s.cosines + int64_t{position} * s.half, s.sines + int64_t{position} * s.half, s.half,
             layout.head, rotated);
      write_entry(layout, head_start(layout, s, piece.row, key_head), position, rotated, s.value + from);
    }
  }

  void read(const Layout& layout, const Step& s, const Piece& piece, int key_head) const {
    thread_local Scratch scratch;
    Query& q = scratch.query;
    const int shared = heads / key_heads;
    alignas(64) float rotated[kMostHead];
    float* outputs[kTileRows];
    int rows = 0;
    const auto flush = [&] {
      if (rows) attend(layout, head_start(layout, s, piece.row, key_head), scratch, rows, rule, outputs);
      rows = 0;
    };
    for (int place = piece.start; place < piece.start + piece.count; ++place) {
      const int64_t token = s.grid[piece.row * s.grid_length + place];
      const int position = position_of(s, piece.row, place);
      for (int h = 0; h < shared; ++h) {
        const int64_t at = (int64_t{key_head} * shared + h) * layout.head;
        rotate(s.query + token * s.query_stride + at, s.cosines + int64_t{position} * s.half,
               s.sines + int64_t{position} * s.half, s.half, layout.head, rotated);
        q.scales[rows] = round_row(rotated, layout.head, 0, reinterpret_cast<uint8_t*>(q.codes[rows])) * scale;
        int32_t sum = 0;
        for (int d = 0; d < layout.head; ++d) sum += q.codes[rows][d];
        q.corrections[rows] = kZeroPoint * sum;
        q.positions[rows] = position;
        outputs[rows] = s.output + token * heads * layout.head + at;
        if (++rows == kTileRows) flush();
      }
    }
    flush();
  }

  void run(const runtime::Context* context, const Layout& layout, const Step& s, int batch) {
    const int tile = std::max(kTileRows / (heads / key_heads), 1);
    pieces.clear();
    bool is_single = true;
    for (int row = 0; row < batch; ++row) {
      is_single &= s.query_lengths[row] <= 1;
      for (int start = 0; start < s.query_lengths[row]; start += tile)
        pieces.push_back({row, start, std::min(tile, s.query_lengths[row] - start)});
    }
    // The longest come first where a prompt is read: its last tokens see most.
    std::reverse(pieces.begin(), pieces.end());
    const size_t count = pieces.size() * key_heads;
    if (!count) return;
    if (!is_single) {
      auto work = [&](size_t i) { write(layout, s, pieces[i / key_heads], static_cast<int>(i % key_heads)); };
      runtime::parallel(api, context, count, work);
    }
    auto work = [&](size_t i) {
      const Piece& piece = pieces[i / key_heads];
      const int key_head = static_cast<int>(i % key_heads);
      if (is_single) write(layout, s, piece, key_head);
      read(layout, s, piece, key_head);
    };
    runtime::parallel(api, context, count, work);
  }
};

constexpr int kInputTypes[kInputs] = {runtime::kFloat, runtime::kFloat, runtime::kFloat, runtime::kInt64, runtime::kInt32,
                                      runtime::kInt32, runtime::kFloat, runtime::kFloat, runtime::kUint8};
// Key and value are left out where the query holds all three.
constexpr bool is_optional(size_t input) { return input == kKey || input == kValue; }

}  // namespace attention
