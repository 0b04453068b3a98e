/* Whether accesses to shared memory are in order, and what is remembered of them: `SharedRaces` as loops.

   Each function looks at all of its accesses first. It notes them and returns 1 if every one is in order.
   It notes nothing and returns 0 if one is not, or if it cannot tell: then numpy looks again, and words the
   error if it is one. So whatever is refused here costs time and no strictness.

   A place is a word or a page, flat: those of a CTA lie together, and CTAs of a cluster one after the other. */

#include <stdint.h>
#include <string.h>

/* The epochs of the last reads of each place: by warps of its CTA in `near`, by others in `far`, if any. */
typedef struct {
    uint8_t *any, *any_far;
    int32_t *near, *far;
    int64_t of_row, count; /* places of a CTA, and of all */
} Reads;

typedef struct {
    int32_t *writer, *written;       /* of each word: agent of the last write + 1, 0: none; its epoch */
    const int32_t *seen, *epoch;     /* of each warp, as in `ThreadOrder` */
    const int32_t *known;            /* as in `Scopes`; 0: scopes do not matter */
    int64_t per_row, per_cluster, page_words; /* warps, warps, words */
    const Reads *words, *pages;
} Races;

/* What is asked of a warp for many places in a row. */
typedef struct {
    int64_t warp, row, rank, lane, agent; /* lane: its number in the CTA */
    const int32_t *seen, *known;
} Warp;

static void turn_to(const Races *r, Warp *w, int64_t warp) {
    if (w->warp == warp) return;
    w->warp = warp;
    w->row = warp / r->per_row;
    w->lane = warp % r->per_row;
    w->agent = warp % r->per_cluster;
    w->rank = w->agent / r->per_row;
    w->seen = r->seen + warp * 2 * r->per_cluster;
    w->known = r->known ? r->known + warp * 2 * r->per_cluster : 0;
}

static int64_t row_of(const Reads *reads, const Warp *w, int64_t place) {
    int64_t own = place - w->row * reads->of_row;
    return own >= 0 && own < reads->of_row ? w->row : place / reads->of_row;
}

/* Whether a warp has learned of a write, and if it reads, by an order of the scope that this wants. */
static int knows_write(const Races *r, const Warp *w, int32_t writer, int32_t written, int reads) {
    int64_t agent = (int64_t)writer - 1;
    if (agent < 0 || agent == w->agent) return 1;
    if (written > w->seen[agent]) return 0;
    return !reads || !w->known || written <= w->known[agent] || agent >= r->per_cluster ||
           agent / r->per_row == w->rank;
}

/* Whether a warp has learned of all reads of a place but its own; if `scoped`, by an order of their scope. */
static int knows_reads(const Races *r, const Reads *reads, const Warp *w, int64_t place, int scoped) {
    if (!reads->any[place]) return 1;
    int64_t row = row_of(reads, w, place), rank = row % (r->per_cluster / r->per_row);
    const int32_t *near = reads->near + place * r->per_row, *seen = w->seen + rank * r->per_row;
    int own = row == w->row;
    for (int64_t i = 0; i < r->per_row; i++)
        if (near[i] > seen[i] && !(own && i == w->lane)) return 0;
    scoped = scoped && w->known;
    if (scoped && rank != w->rank)
        for (int64_t i = 0; i < r->per_row; i++)
            if (near[i] > w->known[rank * r->per_row + i]) return 0;
    if (!reads->any_far[place]) return 1;
    const int32_t *far = reads->far + place * r->per_cluster;
    for (int64_t a = 0; a < r->per_cluster; a++) {
        if (far[a] > w->seen[a] && a != w->agent && a / r->per_row != rank) return 0;
        if (scoped && far[a] > w->known[a] && a / r->per_row != rank && a / r->per_row != w->rank) return 0;
    }
    return 1;
}

static int may_note(const Reads *reads, const Warp *w, int64_t place) {
    return reads->far || row_of(reads, w, place) == w->row;
}

static void note_read(const Races *r, const Reads *reads, const Warp *w, int64_t place) {
    reads->any[place] = 1;
    if (row_of(reads, w, place) == w->row) {
        reads->near[place * r->per_row + w->lane] = r->epoch[w->warp];
    } else {
        reads->any_far[place] = 1;
        reads->far[place * r->per_cluster + w->agent] = r->epoch[w->warp];
    }
}

static int differs(const int32_t *values, int64_t count) {
    int32_t found = 0;
    for (int64_t i = 1; i < count; i++) found |= values[i] ^ values[0];
    return found != 0;
}

/* Whether a warp has learned of the writes of `count` words from `first` on, at most a page. */
static int knows_writes(const Races *r, const Warp *w, int64_t first, int64_t count, int alike, int reads) {
    if (alike) count = 1;
    for (int64_t i = first; i < first + count; i++)
        if (!knows_write(r, w, r->writer[i], r->written[i], reads)) return 0;
    return 1;
}

/* Warps read words, `count` of either. */
int read_words(const Races *r, int64_t count, const int64_t *words, const int64_t *warps) {
    Warp w = {.warp = -1};
    for (int64_t i = 0; i < count; i++) {
        if (words[i] < 0 || words[i] >= r->words->count) return 0;
        turn_to(r, &w, warps[i]);
        if (!knows_write(r, &w, r->writer[words[i]], r->written[words[i]], 1)) return 0;
        if (!may_note(r->words, &w, words[i])) return 0;
    }
    for (int64_t i = 0; i < count; i++) {
        turn_to(r, &w, warps[i]);
        note_read(r, r->words, &w, words[i]);
    }
    return 1;
}

/* Groups of `together` warps, of one CTA each, read `each` places of their CTA, words or, if `whole`, pages;
   the next group's are `step` further on, which is 0 where all have the same. */
int read_operands(const Races *r, int64_t groups, int64_t together, const int64_t *warps, int64_t each,
                  const int64_t *places, int64_t step, int whole) {
    const Reads *reads = whole ? r->pages : r->words;
    int64_t width = whole ? r->page_words : 1;
    Warp w = {.warp = -1};
    const int64_t *mine = places;
    for (int64_t g = 0; g < groups; g++, mine += step) {
        int64_t row = warps[g * together] / r->per_row;
        for (int64_t k = 1; k < together; k++)
            if (warps[g * together + k] / r->per_row != row) return 0;
        for (int64_t i = 0; i < each; i++) {
            if (mine[i] < 0 || mine[i] >= reads->of_row) return 0;
            int64_t first = (row * reads->of_row + mine[i]) * width;
            int alike = !differs(r->writer + first, width) && !differs(r->written + first, width);
            for (int64_t k = 0; k < together; k++) {
                turn_to(r, &w, warps[g * together + k]);
                if (!knows_writes(r, &w, first, width, alike, 1)) return 0;
            }
        }
    }
    mine = places;
    for (int64_t g = 0; g < groups; g++, mine += step)
        for (int64_t k = 0; k < together; k++) {
            turn_to(r, &w, warps[g * together + k]);
            for (int64_t i = 0; i < each; i++) note_read(r, reads, &w, w.row * reads->of_row + mine[i]);
        }
    return 1;
}

/* Warps write words, `count` of either. */
int write_words(const Races *r, int64_t count, const int64_t *words, const int64_t *warps) {
    Warp w = {.warp = -1};
    for (int64_t i = 0; i < count; i++) {
        if (words[i] < 0 || words[i] >= r->words->count) return 0;
        turn_to(r, &w, warps[i]);
        if (!knows_write(r, &w, r->writer[words[i]], r->written[words[i]], 0)) return 0;
        if (!knows_reads(r, r->words, &w, words[i], 1)) return 0;
        if (!knows_reads(r, r->pages, &w, words[i] / r->page_words, 0)) return 0;
    }
    for (int64_t i = 0; i < count; i++) {
        turn_to(r, &w, warps[i]);
        r->writer[words[i]] = (int32_t)w.agent + 1;
        r->written[words[i]] = r->epoch[warps[i]];
    }
    return 1;
}

/* Whether a warp may have the `count` words from `first` on, at most a page and in one, overwritten. */
static int may_overwrite(const Races *r, const Warp *w, int64_t first, int64_t count) {
    int alike = !differs(r->writer + first, count) && !differs(r->written + first, count);
    if (!knows_writes(r, w, first, count, alike, 0)) return 0;
    if (!knows_reads(r, r->pages, w, first / r->page_words, 0)) return 0;
    if (!memchr(r->words->any + first, 1, count)) return 1;
    for (int64_t i = first; i < first + count; i++)
        if (!knows_reads(r, r->words, w, i, 0)) return 0;
    return 1;
}

/* `tiles` copies, of the epochs `copies` of the warps that issue them, write `count` words each. */
int write_tiles(const Races *r, int64_t tiles, const int64_t *first, int64_t count, const int64_t *warps,
                const int32_t *copies) {
    Warp w = {.warp = -1};
    for (int64_t t = 0; t < tiles; t++) {
        int64_t next, end = first[t] + count;
        if (first[t] < 0 || end > r->words->count) return 0;
        turn_to(r, &w, warps[t]);
        for (int64_t at = first[t]; at < end; at = next) {
            next = (at / r->page_words + 1) * r->page_words;
            if (next > end) next = end;
            if (!may_overwrite(r, &w, at, next - at)) return 0;
        }
    }
    for (int64_t t = 0; t < tiles; t++) {
        turn_to(r, &w, warps[t]);
        for (int64_t i = first[t]; i < first[t] + count; i++) {
            r->writer[i] = (int32_t)(w.agent + 1 + r->per_cluster);
            r->written[i] = copies[t];
        }
    }
    return 1;
}
