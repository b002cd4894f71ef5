// Row-wise arithmetic for AVX-512 with VNNI: rounding, RMS norm, exponentials, products of 8-bit codes.
//
// What a row becomes depends on nothing but the row: sums of integers are exact, and sums of floats are always taken in
// the same order, whatever else is computed beside them. (So the compiler must not contract what it likes to an FMA.)
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

namespace arithmetic {

constexpr float kLargestCode = 127.0f;
constexpr int kZeroPoint = 128;
constexpr int kLanes = 16;

inline __mmask16 first_lanes(int64_t count) {
  return count >= kLanes ? 0xFFFF : static_cast<__mmask16>((1u << (count > 0 ? count : 0)) - 1);
}

inline __m512i four_codes(const void* codes) {
  int32_t four;
  std::memcpy(&four, codes, 4);
  return _mm512_set1_epi32(four);
}

// Four products of unsigned and signed codes, added to each of 16 sums. In assembly, since gcc 12 copies the sums to and
// fro around its own form of it.
inline __m512i add_products(__m512i sums, __m512i unsigned_codes, __m512i signed_codes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_codes), "v"(signed_codes));
  return sums;
}

inline int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// e^x to about one unit in the last place, for x of at most 88; -103 and less is 0.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-104.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

inline __m512 sigmoid(__m512 x) {
  const __m512 e = exponential(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), _mm512_set1_ps(88.0f)));
  return _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

inline __m512 silu(__m512 x) { return _mm512_mul_ps(x, sigmoid(x)); }

inline __m512 tanh(__m512 x) {
  return _mm512_fmsub_ps(_mm512_set1_ps(2.0f), sigmoid(_mm512_add_ps(x, x)), _mm512_set1_ps(1.0f));
}

inline float largest_magnitude(const float* x, int count) {
  __m512 largest = _mm512_setzero_ps();
  for (int i = 0; i < count; i += kLanes) {
    largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_maskz_loadu_ps(first_lanes(count - i), x + i)));
  }
  return _mm512_reduce_max_ps(largest);
}

// Codes from -127 to 127, of `count` values, each times `factor`; `offset` is added to each.
inline void write_codes(const float* x, const float* weight, int count, float factor, int offset, uint8_t* codes) {
  const __m512 f = _mm512_set1_ps(factor);
  const __m512i o = _mm512_set1_epi32(offset);
  for (int i = 0; i < count; i += kLanes) {
    const __mmask16 mask = first_lanes(count - i);
    __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
    if (weight) value = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, weight + i));
    const __m512i code = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(value, f)), o);
    _mm512_mask_cvtepi32_storeu_epi8(codes + i, mask, code);
  }
}

inline float inverse_of(float largest) { return largest > 0 ? kLargestCode / largest : 0.0f; }

// Rounds a row by its largest magnitude and adds `offset` to each code; returns the scale of the codes.
inline float round_row(const float* x, int count, int offset, uint8_t* codes) {
  const float largest = largest_magnitude(x, count);
  write_codes(x, nullptr, count, inverse_of(largest), offset, codes);
  return largest / kLargestCode;
}

// The same after RMS norm, with the zero point as offset.
inline float round_normed_row(const float* x, const float* norm, float epsilon, int count, uint8_t* codes) {
  __m512 squares = _mm512_setzero_ps(), magnitudes = _mm512_setzero_ps();
  for (int i = 0; i < count; i += kLanes) {
    const __mmask16 mask = first_lanes(count - i);
    const __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
    squares = _mm512_fmadd_ps(value, value, squares);
    const __m512 weighted = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, norm + i));
    magnitudes = _mm512_max_ps(magnitudes, _mm512_abs_ps(weighted));
  }
  const float largest = _mm512_reduce_max_ps(magnitudes);
  const float inverse = 1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / count + epsilon);
  write_codes(x, norm, count, inverse_of(largest), kZeroPoint, codes);
  return largest * inverse / kLargestCode;
}

}  // namespace arithmetic
