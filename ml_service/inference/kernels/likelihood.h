// How unlikely a token is: the logarithm of the sum of all exponentials, less the token's own logit.
#pragma once
#include <algorithm>

#include "arithmetic.h"

namespace likelihood {

constexpr int64_t kBlock = 2048;  // logits whose exponentials are added in fp32; what blocks come to is added in fp64

// Of one row of `width` logits, the largest of which is known.
inline double nats(const float* logits, int64_t width, float largest, float own) {
  using namespace arithmetic;
  const __m512 shift = _mm512_set1_ps(largest);
  double total = 0;
  for (int64_t start = 0; start < width; start += kBlock) {
    const int64_t stop = std::min(start + kBlock, width);
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t i = start;
    for (; i + 2 * kLanes <= stop; i += 2 * kLanes)
      for (int half = 0; half < 2; ++half) {
        const __m512 x = _mm512_loadu_ps(logits + i + half * kLanes);
        sums[half] = _mm512_add_ps(sums[half], exponential(_mm512_sub_ps(x, shift)));
      }
    for (; i < stop; i += kLanes) {
      const __mmask16 lanes = first_lanes(stop - i);
      const __m512 x = _mm512_maskz_loadu_ps(lanes, logits + i);
      sums[0] = _mm512_mask_add_ps(sums[0], lanes, sums[0], exponential(_mm512_sub_ps(x, shift)));
    }
    total += _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
  }
  return std::log(total) + (static_cast<double>(largest) - own);
}

}  // namespace likelihood
