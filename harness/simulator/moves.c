/* What moves most of a launch's bytes, as loops: numpy's indexing takes three to five times as long.

   Nothing here looks at bounds. Who calls has compared every address with the memory that it is in. */

#include <stdint.h>
#include <string.h>

/* bf16 as float32. Of each of `groups` CTAs, which is a row of `row_bytes`, the `count` chunks of 8 values at
   `chunks`, 16 bytes each; the next group's are `chunk_step` further on, which is 0 where all have the same. */
void widen_bf16(const unsigned char *shared, int64_t row_bytes, int64_t groups, const int64_t *rows,
                const int64_t *chunks, int64_t chunk_step, int64_t count, uint32_t *out) {
    for (int64_t group = 0; group < groups; group++, chunks += chunk_step) {
        const unsigned char *row = shared + rows[group] * row_bytes;
        for (int64_t i = 0; i < count; i++, out += 8) {
            uint16_t chunk[8];
            memcpy(chunk, row + 16 * chunks[i], sizeof chunk);
            for (int j = 0; j < 8; j++) out[j] = (uint32_t)chunk[j] << 16;
        }
    }
}

#define COPY(bytes)                                                                                              \
    static void copy_##bytes(unsigned char *to, const unsigned char *from, const int64_t *offsets,               \
                             const unsigned char *copied, int64_t units) {                                      \
        if (copied)                                                                                              \
            for (int64_t i = 0; i < units; i++)                                                                  \
                if (copied[i]) memcpy(to + bytes * i, from + offsets[i], bytes);                                 \
                else memset(to + bytes * i, 0, bytes);                                                           \
        else                                                                                                     \
            for (int64_t i = 0; i < units; i++) memcpy(to + bytes * i, from + offsets[i], bytes);                \
    }
COPY(1) COPY(2) COPY(4) COPY(8) COPY(16)

/* `count` tiles of `units` units. Tile t is written to the address `to[t]` and comes from what the issue
   `issues[t]` names: the address `from`, the row `box` of `offsets` with each unit's offset from there, and
   the row `mask` of `copied` that marks the units to be copied, where the rest is 0; -1: all are. */
void load_tiles(int64_t count, const int64_t *issues, const int64_t *to, const int64_t *from, int64_t unit,
                int64_t units, const int64_t *box, const int64_t *offsets, const int64_t *mask,
                const unsigned char *copied) {
    void (*copy)(unsigned char *, const unsigned char *, const int64_t *, const unsigned char *, int64_t) =
        unit == 16 ? copy_16 : unit == 8 ? copy_8 : unit == 4 ? copy_4 : unit == 2 ? copy_2 : copy_1;
    for (int64_t tile = 0; tile < count; tile++) {
        int64_t issue = issues[tile];
        copy((unsigned char *)to[tile], (const unsigned char *)from[issue], offsets + box[issue] * units,
             mask[issue] < 0 ? 0 : copied + mask[issue] * units, units);
    }
}
