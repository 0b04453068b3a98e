/* Matrix products of bf16 operands in shared memory, as float32, and products of lanes, on processors with AVX2
   and FMA.

   Each element of a product is summed in float32 in the order of K, each step rounded once.

   Nothing here looks at bounds. Who calls has compared every address with the memory that it is in. */

#include <stdint.h>
#include <string.h>

#ifndef __x86_64__
int has_products(void) { return 0; }
#else
#include <immintrin.h>

#define FUSED __attribute__((target("avx2,fma")))
#define INLINE FUSED static inline __attribute__((always_inline))

/* Elements of a chunk, chunks of a page; a block of so many rows and columns has its sums in registers. */
enum { CHUNK = 8, PAGE = 16, WIDTH = 16, HEIGHT = 6 };

int has_products(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

INLINE __m128i chunk_at(const unsigned char *shared, int64_t chunk) {
    return _mm_loadu_si128((const __m128i *)(shared + 2 * CHUNK * chunk));
}

INLINE void store_widened(float *to, __m128i codes) {
    _mm256_storeu_si256((__m256i *)to, _mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16));
}

/* The rows of A, `count` chunks each, as float32. Those that are all +0, as a tile's padding is, become one
   row behind the others. `slots[r]`: which row of `out` r has become. How many there are. `states` are those
   of the pages: what is of `zero_state` is not read, as it mostly is in no cache. */
INLINE int64_t pack_a(const unsigned char *shared, const unsigned char *states, int zero_state,
                      const int64_t *chunks, int64_t rows, int64_t count, float *out, int64_t *slots) {
    int64_t used = 0, zeros = 0;
    for (int64_t row = 0; row < rows; row++, chunks += count) {
        float *to = out + CHUNK * count * used; /* written over by the next row where this one is zero */
        __m128i any = _mm_setzero_si128();
        int64_t known = 0;
        while (known < count && states[chunks[known] / PAGE] == zero_state) known++;
        for (int64_t i = known == count ? count : 0; i < count; i++) {
            __m128i codes = chunk_at(shared, chunks[i]);
            any = _mm_or_si128(any, codes);
            store_widened(to + CHUNK * i, codes);
        }
        int zero = _mm_testz_si128(any, any);
        slots[row] = zero ? -1 : used;
        zeros |= zero;
        used += !zero;
    }
    if (zeros) {
        memset(out + CHUNK * count * used, 0, sizeof *out * CHUNK * count);
        for (int64_t row = 0; row < rows; row++)
            if (slots[row] < 0) slots[row] = used;
    }
    return used + zeros;
}

/* Eight rows of eight codes as eight columns of float32, WIDTH apart. */
INLINE void store_transposed(float *to, const __m128i *r) {
    __m128i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            b[4 * i + 2 * j] = _mm_unpacklo_epi32(a[4 * i + j], a[4 * i + j + 2]);
            b[4 * i + 2 * j + 1] = _mm_unpackhi_epi32(a[4 * i + j], a[4 * i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        store_widened(to + WIDTH * 2 * j, _mm_unpacklo_epi64(b[j], b[j + 4]));
        store_widened(to + WIDTH * (2 * j + 1), _mm_unpackhi_epi64(b[j], b[j + 4]));
    }
}

/* The rows of B, a multiple of 8, as float32 in panels of WIDTH rows: [panel][k][WIDTH]. What a panel has
   beyond them is whatever was there. */
INLINE void pack_b(const unsigned char *shared, const int64_t *chunks, int64_t rows, int64_t count,
                   float *out) {
    for (int64_t first = 0; first < rows; first += 8) {
        float *to = out + first / WIDTH * WIDTH * CHUNK * count + first % WIDTH;
        for (int64_t i = 0; i < count; i++) {
            __m128i codes[8];
            for (int row = 0; row < 8; row++)
                codes[row] = chunk_at(shared, chunks[(first + row) * count + i]);
            store_transposed(to + WIDTH * CHUNK * i, codes);
        }
    }
}

/* `height` rows of A [height][depth] times a panel of B [depth][WIDTH]: to `out` [height][WIDTH]. */
INLINE void block(int height, int64_t depth, const float *a, const float *b, float *out) {
    __m256 low[HEIGHT], high[HEIGHT];
    const float *rows[HEIGHT];
#pragma GCC unroll 8
    for (int i = 0; i < height; i++) {
        low[i] = high[i] = _mm256_setzero_ps();
        rows[i] = a + i * depth;
    }
    for (int64_t k = 0; k < depth; k++) {
        __m256 b_low = _mm256_loadu_ps(b + WIDTH * k), b_high = _mm256_loadu_ps(b + WIDTH * k + WIDTH / 2);
#pragma GCC unroll 8
        for (int i = 0; i < height; i++) {
            __m256 one = _mm256_broadcast_ss(rows[i] + k);
            low[i] = _mm256_fmadd_ps(one, b_low, low[i]);
            high[i] = _mm256_fmadd_ps(one, b_high, high[i]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < height; i++) {
        _mm256_storeu_ps(out + WIDTH * i, low[i]);
        _mm256_storeu_ps(out + WIDTH * i + WIDTH / 2, high[i]);
    }
}

INLINE void panel(int64_t rows, int64_t depth, const float *a, const float *b, float *out) {
    for (; rows >= HEIGHT; rows -= HEIGHT, a += HEIGHT * depth, out += HEIGHT * WIDTH)
        block(HEIGHT, depth, a, b, out);
    switch (rows) {
    case 5: block(5, depth, a, b, out); break;
    case 4: block(4, depth, a, b, out); break;
    case 3: block(3, depth, a, b, out); break;
    case 2: block(2, depth, a, b, out); break;
    case 1: block(1, depth, a, b, out); break;
    }
}

/* To the tiles `out` [groups][m][n], or to zeros where not `keep`, are added the products A B^T.

   Group g's operands lie in the CTA `rows[g]`, a row of `row_bytes` and of its pages' `states`: A's m rows of `count` chunks at
   `a_chunks[a_which[g]]`, and B's n rows, a multiple of 8, at `b_chunks[b_which[g]]`. `space` has room for
   m + 1 rows of A, the panels of B, and m + 1 rows of a panel; `slots` for m numbers. */
FUSED void add_products(const unsigned char *shared, const unsigned char *states, int zero_state,
                        int64_t row_bytes, int64_t groups, const int64_t *rows, int64_t m,
                        const int64_t *a_chunks, const int64_t *a_which, int64_t n, const int64_t *b_chunks,
                        const int64_t *b_which, int64_t count, const unsigned char *keep, float *out,
                        float *space, int64_t *slots) {
    int64_t depth = CHUNK * count, panels = (n + WIDTH - 1) / WIDTH, used = 0;
    float *a = space, *b = a + (m + 1) * depth, *sums = b + panels * WIDTH * depth;
    for (int64_t g = 0; g < groups; g++, out += m * n) {
        const unsigned char *row = shared + rows[g] * row_bytes;
        /* Warpgroups of a CTA mostly share one of their operands. */
        int same = g && rows[g] == rows[g - 1];
        if (!same || a_which[g] != a_which[g - 1])
            used = pack_a(row, states + rows[g] * (row_bytes / (2 * CHUNK * PAGE)), zero_state,
                          a_chunks + a_which[g] * m * count, m, count, a, slots);
        if (!same || b_which[g] != b_which[g - 1])
            pack_b(row, b_chunks + b_which[g] * n * count, n, count, b);
        for (int64_t first = 0; first < n; first += WIDTH) {
            int64_t width = n - first < WIDTH ? n - first : WIDTH;
            panel(used, depth, a, b + first * depth, sums);
            for (int64_t r = 0; r < m; r++)
                for (int64_t j = 0; j < width; j += 8) {
                    float *to = out + r * n + first + j;
                    __m256 old = keep[g] ? _mm256_loadu_ps(to) : _mm256_setzero_ps();
                    _mm256_storeu_ps(to, _mm256_add_ps(old, _mm256_loadu_ps(sums + slots[r] * WIDTH + j)));
                }
        }
    }
}

INLINE __m256 lanes_at(const float *from, int64_t i, int64_t step) {
    return step ? _mm256_loadu_ps(from + i) : _mm256_broadcast_ss(from);
}

/* a[i] b[i] + c[i], rounded once, of `count` lanes; an operand of step 0, not 1, is the same for all. */
FUSED void fuse(int64_t count, const float *a, int64_t a_step, const float *b, int64_t b_step, const float *c,
                int64_t c_step, float *out) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_fmadd_ps(lanes_at(a, i, a_step), lanes_at(b, i, b_step),
                                                  lanes_at(c, i, c_step)));
    for (; i < count; i++) out[i] = __builtin_fmaf(a[i * a_step], b[i * b_step], c[i * c_step]);
}
#endif
