/* What orders threads, as loops over their clocks, which are rows of `agents` entries: numpy's make some five
   arrays of all of them in between, and sort barriers that several warps name.

   Nothing here looks at bounds. Who calls has made every barrier's row, and knows its warps. */

#include <stdint.h>
#include <string.h>

#define RAISE(name)                                                                                              \
    static void name(int32_t *restrict known, const int32_t *restrict clock, int64_t agents) {                   \
        for (int64_t a = 0; a < agents; a++) known[a] = known[a] > clock[a] ? known[a] : clock[a];               \
    }
RAISE(raise_plainly)

/* The greater of two integers is an instruction since SSE4.1: that halves the time of clusters of 12 CTAs. */
#ifdef __x86_64__
__attribute__((target("avx2"))) RAISE(raise_with_avx2)
#else
#define raise_with_avx2 raise_plainly
#define __builtin_cpu_supports(name) 0
#endif

static void raise_to(int32_t *known, const int32_t *clock, int64_t agents) {
    (__builtin_cpu_supports("avx2") ? raise_with_avx2 : raise_plainly)(known, clock, agents);
}

/* The barriers `keys` are in `phases` now: of one that was in another, `closed` is what `open` has been. */
void turn(int32_t *open, int32_t *closed, int64_t *phase, int64_t agents, int64_t count, const int64_t *keys,
          const int64_t *phases) {
    for (int64_t i = 0; i < count; i++) {
        int64_t key = keys[i];
        if (phase[key] == phases[i]) continue;
        memcpy(closed + key * agents, open + key * agents, agents * sizeof *open);
        phase[key] = phases[i];
    }
}

/* Raise rows `keys` of `known`, which may repeat, to rows `from` of `clocks`. */
void raise_rows(int32_t *known, const int64_t *keys, const int32_t *clocks, const int64_t *from,
                int64_t agents, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        raise_to(known + keys[i] * agents, clocks + from[i] * agents, agents);
}

/* As `raise_rows`, to what warps are known to have seen, of themselves up to their `epoch`. */
void publish(int32_t *known, const int64_t *keys, const int32_t *seen, const int64_t *warps,
             const int64_t *agent, const int32_t *epoch, int64_t agents, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        int64_t warp = warps[i], own = agent[warp];
        if (i && warp == warps[i - 1] && keys[i] == keys[i - 1]) continue; /* lanes of one warp */
        int32_t *row = known + keys[i] * agents;
        int32_t mine = row[own] > epoch[warp] ? row[own] : epoch[warp];
        raise_to(row, seen + warp * agents, agents);
        row[own] = mine;
    }
}
