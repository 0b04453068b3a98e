/* What copies and matrix products ask of the 256-byte pages of shared memory, as loops over tiles and pages.

   Nothing here looks at bounds. Who calls has compared every address with the memory that it is in. */

#include <stdint.h>
#include <string.h>

enum { PAGE_BYTES = 256 };

/* Whether `allowed` has the state of every page: of each of `groups` CTAs, a row of `row_pages`, the `count` at
   `pages`. The next group's are `step` further on, which is 0 where all have the same. */
int pages_are(const unsigned char *state, int64_t row_pages, int64_t groups, const int64_t *rows,
              const int64_t *pages, int64_t step, int64_t count, const unsigned char *allowed) {
    for (int64_t group = 0; group < groups; group++, pages += step) {
        const unsigned char *row = state + rows[group] * row_pages;
        int all = 1;
        for (int64_t i = 0; i < count; i++) all &= allowed[row[pages[i]]];
        if (!all) return 0;
    }
    return 1;
}

/* Those pages of each group, a row of `last`, are now read by the group's next to be committed. */
void note_reads(int32_t *last, int64_t row_pages, int64_t groups, const int64_t *rows, const int64_t *pages,
                int64_t step, int64_t count, const int64_t *committed) {
    for (int64_t group = 0; group < groups; group++, pages += step) {
        int32_t *row = last + rows[group] * row_pages, number = (int32_t)(committed[rows[group]] + 1);
        for (int64_t i = 0; i < count; i++) row[pages[i]] = number;
    }
}

/* Whether a page of one of `tiles` tiles of `size` bytes, at `offsets` of the CTAs `rows`, has been read by a
   warpgroup of that CTA, of which there are `per_row`, in a group later than those it has `retired`. */
int any_in_flight(const int32_t *last, int64_t row_pages, int64_t per_row, int64_t tiles, const int64_t *rows,
                  const int64_t *offsets, int64_t size, const int64_t *retired) {
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t first = offsets[tile] / PAGE_BYTES, end = (offsets[tile] + size - 1) / PAGE_BYTES;
        for (int64_t group = rows[tile] * per_row; group < (rows[tile] + 1) * per_row; group++) {
            const int32_t *row = last + group * row_pages;
            int late = 0;
            for (int64_t page = first; page <= end; page++) late |= row[page] > retired[group];
            if (late) return 1;
        }
    }
    return 0;
}

/* All pages of these tiles, which are whole pages, get the state `to`; of those whose state `stamped` has, the
   words lose their stamps. The first page that was in that state already, counted from the first CTA's on; -1: none
   was. */
int64_t set_pages(unsigned char *state, uint32_t *stamps, int64_t row_pages, int64_t tiles, const int64_t *rows,
                  const int64_t *offsets, int64_t size, const unsigned char *stamped, int to) {
    int64_t found = -1;
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t first = rows[tile] * row_pages + offsets[tile] / PAGE_BYTES, end = first + size / PAGE_BYTES;
        for (int64_t page = first; page < end; page++) {
            if (state[page] == to && found < 0) found = page;
            if (stamped[state[page]]) memset(stamps + page * (PAGE_BYTES / 4), 0, PAGE_BYTES);
            state[page] = (unsigned char)to;
        }
    }
    return found;
}
