// Matrix products small enough for a cache, as attention needs them: C[M, N] (+)= A[M, K] B[K, N], summed in fp32.
//
// The numbers of A and B come in 32-bit words along K: two of bf16 or one of fp32. A word of B meets a word of A in one
// instruction (bf16: VDPBF16PS adds two products at once). A is read word by word at a[m * a_row + k * a_col], so both
// a matrix and its transpose will do; B must be packed as words [K / PER_WORD][ldb] by one of the functions at the end.

#pragma once

#include "vector.h"

using Word = uint32_t;

template <class T>
constexpr int PER_WORD = sizeof(Word) / sizeof(T);

struct Left {
  const Word* words;
  int64_t row, col;     // distance in words between neighbours along M and along K
  bool is_far = false;  // rows are not in a near cache: the next tile's are fetched during this one's products
  const char* coming = nullptr;  // what else is fetched meanwhile, where rows are far: so many bytes for each of them
  int64_t coming_per_row = 0;

  Left below(int rows) const { return {words + rows * row, row, col, is_far, coming + rows * coming_per_row, coming_per_row}; }
};

struct Right {
  const Word* words;
  int64_t ld;
};

template <class T>
static inline f32x16 multiply_add(f32x16 sum, Word a, u32x16 b) {
  if constexpr (std::is_same_v<T, float>) {
    float value;
    memcpy(&value, &a, 4);
    return sum + (f32x16)b * value;
  } else {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
#else
    const f32x16 low = (f32x16)(u32x16{} + (a << 16)), high = (f32x16)(u32x16{} + (a & 0xffff0000u));
    return sum + low * (f32x16)(b << 16) + high * (f32x16)(b & 0xffff0000u);
#endif
  }
}

// The same for a word of A in each lane.
template <class T>
static inline f32x16 multiply_add(f32x16 sum, u32x16 a, u32x16 b) {
  if constexpr (std::is_same_v<T, float>) {
    return sum + (f32x16)a * (f32x16)b;
  } else {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    return sum + (f32x16)(a << 16) * (f32x16)(b << 16) + (f32x16)(a & 0xffff0000u) * (f32x16)(b & 0xffff0000u);
#endif
  }
}

// ROWS x (16 * VECTORS) numbers of C, held in registers while k runs.
template <class T, int ROWS, int VECTORS, class Sum>
static inline void tile(int num_words, Left a, Right b, Sum* c, int64_t ldc, bool add) {
  f32x16 sums[ROWS][VECTORS];
#pragma GCC unroll 6
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) sums[i][j] = add ? load(c + i * ldc + 16 * j) : f32x16{};
  for (int k = 0; k < num_words; k++) {
    if (a.is_far && k % 16 == 0) {
#pragma GCC unroll 6
      for (int i = 0; i < ROWS; i++) __builtin_prefetch(a.words + (ROWS + i) * a.row + k);
      if (a.coming) __builtin_prefetch(a.coming + 4 * k);  // a line of the cache for each line of a row
    }
    u32x16 row[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) memcpy(&row[j], b.words + k * b.ld + 16 * j, 64);
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++) {
      const Word word = a.words[i * a.row + k * a.col];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) sums[i][j] = multiply_add<T>(sums[i][j], word, row[j]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) store(c + i * ldc + 16 * j, sums[i][j]);
}

// 16 * VECTORS columns of C. Six rows by four vectors fill 24 of the 32 registers of AVX-512; the rest hold b and a.
template <class T, int VECTORS, class Sum>
static void columns(int m, int num_words, Left a, Right b, Sum* c, int64_t ldc, bool add) {
  for (; m >= 6; m -= 6, a = a.below(6), c += 6 * ldc) tile<T, 6, VECTORS>(num_words, a, b, c, ldc, add);
  if (m & 4) tile<T, 4, VECTORS>(num_words, a, b, c, ldc, add), a = a.below(4), c += 4 * ldc;
  if (m & 2) tile<T, 2, VECTORS>(num_words, a, b, c, ldc, add), a = a.below(2), c += 2 * ldc;
  if (m & 1) tile<T, 1, VECTORS>(num_words, a, b, c, ldc, add);
}

// C[m, n] = A B, or C += A B; n is a multiple of 16, and K is num_words * PER_WORD<T>.
template <class T, class Sum>
static void matmul(int m, int n, int num_words, Left a, Right b, Sum* c, int64_t ldc, bool add) {
  int j = 0;
  for (; j + 64 <= n; j += 64) columns<T, 4>(m, num_words, a, {b.words + j, b.ld}, c + j, ldc, add);
  const Right rest = {b.words + j, b.ld};
  if (n - j == 48) columns<T, 3>(m, num_words, a, rest, c + j, ldc, add);
  if (n - j == 32) columns<T, 2>(m, num_words, a, rest, c + j, ldc, add);
  if (n - j == 16) columns<T, 1>(m, num_words, a, rest, c + j, ldc, add);
}

// Sixteen rows of sixteen words, each row becoming a column of out: pairs of rows meet, then fours, eights, and all.
static inline void store_transposed(const u32x16 (&rows)[16], Word* out, int64_t ldo) {
#if defined(__AVX512F__)
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + 2 + j]);
      b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + 2 + j]);
    }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; j++) {
      a[i + j] = _mm512_shuffle_i32x4(b[i + j], b[i + 4 + j], 0x88);
      a[i + 4 + j] = _mm512_shuffle_i32x4(b[i + j], b[i + 4 + j], 0xdd);
    }
  for (int j = 0; j < 8; j++) {
    const __m512i low = _mm512_shuffle_i32x4(a[j], a[8 + j], 0x88), high = _mm512_shuffle_i32x4(a[j], a[8 + j], 0xdd);
    memcpy(out + j * ldo, &low, 64);
    memcpy(out + (8 + j) * ldo, &high, 64);
  }
#else
  for (int j = 0; j < 16; j++)
    for (int i = 0; i < 16; i++) out[j * ldo + i] = rows[i][j];
#endif
}

// Words of numbers that are neighbours along a row: x [rows, cols] -> out [cols / PER_WORD][ldo], for B = transposed x.
template <class T>
static void pack_transposed(int rows, int cols, const T* x, int64_t ld, Word* out, int64_t ldo) {
  const int words = cols / PER_WORD<T>;
  for (int begin = 0; begin < rows; begin += 16) {
    int c = 0;
    for (; begin + 16 <= rows && c + 16 <= words; c += 16) {
      u32x16 some[16];
      for (int i = 0; i < 16; i++) memcpy(&some[i], x + (begin + i) * ld + c * PER_WORD<T>, 64);
      store_transposed(some, out + c * ldo + begin, ldo);
    }
    for (; c < words; c++)
      for (int r = begin; r < rows && r < begin + 16; r++)
        memcpy(out + c * ldo + r, x + r * ld + c * PER_WORD<T>, sizeof(Word));
  }
}

// The words of PER_WORD neighbouring rows: for bf16 two rows interleaved, for fp32 the row itself.
static inline u32x16 interleave(u16x16 first, u16x16 second) {
#if defined(__AVX512F__)  // GCC would widen in halves
  const __m512i lower = _mm512_cvtepu16_epi32((__m256i)first), upper = _mm512_cvtepu16_epi32((__m256i)second);
  return (u32x16)lower | (u32x16)upper << 16;
#else
  return __builtin_convertvector(first, u32x16) | (__builtin_convertvector(second, u32x16) << 16);
#endif
}

// Words of numbers that are neighbours along a column: x [rows, cols] -> out [rows / PER_WORD][ldo], for B = x. cols is a
// multiple of 16; an odd last row of bf16 is paired with zeros.
template <class T>
static void pack(int rows, int cols, const T* x, int64_t ld, Word* out, int64_t ldo) {
  for (int r = 0; r < rows; r += PER_WORD<T>)
    for (int c = 0; c < cols; c += 16) {
      __builtin_prefetch(x + (r + 16) * ld + c);
      u32x16 words;
      if constexpr (std::is_same_v<T, float>) {
        memcpy(&words, x + r * ld + c, 64);
      } else {
        u16x16 first, second{};
        memcpy(&first, x + r * ld + c, 32);
        if (r + 1 < rows) memcpy(&second, x + (r + 1) * ld + c, 32);
        words = interleave(first, second);
      }
      memcpy(out + r / PER_WORD<T> * ldo + c, &words, 64);
    }
}

// The words of PER_WORD rows of sixteen numbers each.
template <class T>
static inline void store_words(Word* out, const f32x16* rows) {
  if constexpr (std::is_same_v<T, float>) {
    memcpy(out, rows, 64);
  } else {
    const u32x16 words = interleave(narrow(rows[0]), narrow(rows[1]));
    memcpy(out, &words, 64);
  }
}
