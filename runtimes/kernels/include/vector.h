// Sixteen fp32 numbers as one C++ value: a + b, a * b, max(a, b), exp(a).
//
// GCC's vector extensions make it one AVX-512 register, two of AVX2, four of NEON. Memory holds fp32 or bf16; all
// arithmetic is in fp32. A row that is no multiple of 16 ends with a vector of fewer lanes:
//
//   each_vector<N>([&](int j, auto lanes) { store(y + j, load(x + j, lanes) * 2.0f, lanes); });

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

using f32x16 = float __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
using u32x16 = uint32_t __attribute__((vector_size(64)));
using u16x16 = uint16_t __attribute__((vector_size(32)));

// The upper half of an fp32 number.
struct bf16 {
  uint16_t bits;
};

template <int N>
using Lanes = std::integral_constant<int, N>;
using AllLanes = Lanes<16>;

// Calls body(j, lanes) for j = 0, 16, 32, ... below N.
template <int N, class Body>
static inline void each_vector(Body body) {
  for (int j = 0; j + 16 <= N; j += 16) body(j, AllLanes{});
  if constexpr (N % 16 != 0) body(N / 16 * 16, Lanes<N % 16>{});
}

static inline f32x16 splat(float x) { return f32x16{} + x; }
static inline f32x16 max(f32x16 a, f32x16 b) { return a > b ? a : b; }

static inline f32x16 widen(u16x16 half) {
#if defined(__AVX512F__)  // GCC would widen in halves
  return (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)half), 16);
#else
  return (f32x16)(__builtin_convertvector(half, u32x16) << 16);
#endif
}

// To the nearest bf16, ties to even. Not-a-number stays one: its payload has a bit among the upper ones.
static inline u16x16 narrow(f32x16 v) {
#if defined(__AVX512BF16__)
  return (u16x16)_mm512_cvtneps_pbh((__m512)v);
#else
  const u32x16 bits = (u32x16)v;
  const u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? rounded : (bits >> 16) | 0x40, u16x16);
#endif
}

template <int N = 16>
static inline f32x16 load(const float* p, Lanes<N> = {}) {
  f32x16 v{};
  memcpy(&v, p, N * sizeof(float));
  return v;
}

template <int N = 16>
static inline f32x16 load(const bf16* p, Lanes<N> = {}) {
  u16x16 half{};
  memcpy(&half, p, N * sizeof(bf16));
  return widen(half);
}

static inline f32x16 load(const int8_t* p) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#else
  using i8x16 = int8_t __attribute__((vector_size(16)));
  i8x16 codes;
  memcpy(&codes, p, 16);
  return __builtin_convertvector(__builtin_convertvector(codes, i32x16), f32x16);
#endif
}

// Every byte of sixteen words, which is below 16, as what it stands for.
template <class Byte>
static inline u32x16 look_up(const Byte (&table)[16], u32x16 bytes) {
#if defined(__AVX512BW__)
  return (u32x16)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), (__m512i)bytes);
#else
  using u8x16 = uint8_t __attribute__((vector_size(16)));
  u8x16 numbers, quarters[4];
  memcpy(&numbers, table, 16);
  memcpy(quarters, &bytes, 64);
  for (int i = 0; i < 4; i++) quarters[i] = __builtin_shuffle(numbers, quarters[i]);
  memcpy(&bytes, quarters, 64);
  return bytes;
#endif
}

template <int N = 16>
static inline void store(float* p, f32x16 v, Lanes<N> = {}) {
  memcpy(p, &v, N * sizeof(float));
}

template <int N = 16>
static inline void store(bf16* p, f32x16 v, Lanes<N> = {}) {
  const u16x16 half = narrow(v);
  memcpy(p, &half, N * sizeof(bf16));
}

static inline float to_float(float x) { return x; }
static inline float to_float(bf16 x) {
  const uint32_t bits = (uint32_t)x.bits << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static inline void store_one(float* p, float x) { *p = x; }
static inline void store_one(bf16* p, float x) { store(p, splat(x), Lanes<1>{}); }

static inline float sum(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float total = 0.0f;
  for (int i = 0; i < 16; i++) total += v[i];
  return total;
#endif
}

static inline float largest(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float most = v[0];
  for (int i = 1; i < 16; i++) most = v[i] > most ? v[i] : most;
  return most;
#endif
}

static inline f32x16 sqrt(f32x16 v) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_sqrt_ps((__m512)v);
#else
  for (int i = 0; i < 16; i++) v[i] = std::sqrt(v[i]);
  return v;
#endif
}

// Each of sixteen vectors' lanes put together, a lane for each vector: four steps that halve how many vectors there are.
template <class Together>
static inline f32x16 reduced(const f32x16 (&v)[16], Together together) {
  f32x16 found[8];
#if defined(__AVX512F__)
  for (int i = 0; i < 8; i++) {
    const __m512 a = (__m512)v[2 * i], b = (__m512)v[2 * i + 1];
    found[i] = together((f32x16)_mm512_unpacklo_ps(a, b), (f32x16)_mm512_unpackhi_ps(a, b));
  }
  for (int i = 0; i < 4; i++) {
    const __m512d a = (__m512d)found[2 * i], b = (__m512d)found[2 * i + 1];
    found[i] = together((f32x16)_mm512_unpacklo_pd(a, b), (f32x16)_mm512_unpackhi_pd(a, b));
  }
  for (int count = 2; count; count /= 2)
    for (int i = 0; i < count; i++) {
      const __m512 a = (__m512)found[2 * i], b = (__m512)found[2 * i + 1];
      found[i] = together((f32x16)_mm512_shuffle_f32x4(a, b, 0x88), (f32x16)_mm512_shuffle_f32x4(a, b, 0xdd));
    }
#else
  const i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int i = 0; i < 16; i++) {
    f32x16 all = v[i];
    for (int half = 8; half; half /= 2) all = together(all, __builtin_shuffle(all, lanes ^ half));
    found[0][i] = all[0];
  }
#endif
  return found[0];
}

static inline f32x16 sums(const f32x16 (&v)[16]) {
  return reduced(v, [](f32x16 a, f32x16 b) { return a + b; });
}

static inline f32x16 largest(const f32x16 (&v)[16]) {
  return reduced(v, [](f32x16 a, f32x16 b) { return max(a, b); });
}

// exp(x) to 2 ulp; 0 below -87; exp(88) = 1.7e38 above 88; not a number where x is not one. With n = round(x / ln 2) and r = x - n ln 2 in
// [-0.347, 0.347]: exp(x) = 2^n * (1 + r + r^2/2! + ... + r^6/6!).
static inline f32x16 exp(f32x16 x) {
#if defined(__AVX512F__)
  const f32x16 y = (f32x16)_mm512_min_ps(_mm512_set1_ps(88.0f), (__m512)x);  // of two the second, where one is not a number
  const f32x16 n = (f32x16)_mm512_roundscale_ps((__m512)(y * 1.44269504f), 0);
#else
  const f32x16 round = splat(12582912.0f);  // 1.5 * 2^23: adding it leaves an integer in the low bits
  const f32x16 y = x < -88.0f ? splat(-88.0f) : x > 88.0f ? splat(88.0f) : x;
  const f32x16 shifted = y * 1.44269504f + round;
  const f32x16 n = shifted - round;
#endif
  const f32x16 r = (y - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts
  f32x16 p = r * 1.38888889e-3f + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
#if defined(__AVX512F__)
  const __mmask16 is_normal = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  return (f32x16)_mm512_maskz_scalef_ps(is_normal, (__m512)p, (__m512)n);
#else
  const f32x16 scaled = (f32x16)((i32x16)p + ((i32x16)shifted << 23));  // 2^n, added to the exponent
  return x < -87.0f ? f32x16{} : x == x ? scaled : x;
#endif
}
