// Attention with dropout, a few query rows at a time: no (queries, keys) matrix is ever held.
#pragma once

#include "vectors.h"

// C (m, n) = or += A (m, k) B (k, n); A[i][p] is a[i * ai + p * ap]; n is a multiple of W.
template <int M, int N>
static inline void tile(Index k, const float* a, Index ai, Index ap, const float* b, Index ldb, float* c, Index ldc, bool add) {
    Vec acc[M][N];
#pragma GCC unroll 8
    for (int i = 0; i < M; i++)
#pragma GCC unroll 2
        for (int j = 0; j < N; j++) acc[i][j] = add ? load(c + i * ldc + j * W) : Vec{};
    for (Index p = 0; p < k; p++) {
        Vec row[N];
#pragma GCC unroll 2
        for (int j = 0; j < N; j++) row[j] = load(b + p * ldb + j * W);
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) {
            Vec x = spread(a[i * ai + p * ap]);
#pragma GCC unroll 2
            for (int j = 0; j < N; j++) acc[i][j] += x * row[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; i++)
#pragma GCC unroll 2
        for (int j = 0; j < N; j++) store(c + i * ldc + j * W, acc[i][j]);
}

// Rows and vectors of a tile, as many as the registers hold.
#ifdef __AVX512F__
constexpr int TALL = 8, WIDE = 3;
#else
constexpr int TALL = 6, WIDE = 2;
#endif

template <int N, int M = TALL>
static inline void strip(Index m, Index k, const float* a, Index ai, Index ap, const float* b, Index ldb, float* c, Index ldc,
                         bool add) {
    for (; m >= M; m -= M, a += M * ai, c += M * ldc) tile<M, N>(k, a, ai, ap, b, ldb, c, ldc, add);
    if constexpr (M > 1)
        if (m) strip<N, M / 2>(m, k, a, ai, ap, b, ldb, c, ldc, add);
}

static inline void product(Index m, Index n, Index k, const float* a, Index ai, Index ap, const float* b, Index ldb, float* c,
                           Index ldc, bool add) {
    Index j = 0, left = n / W;
    for (; left >= WIDE && left != WIDE + 1; left -= WIDE, j += WIDE * W) strip<WIDE>(m, k, a, ai, ap, b + j, ldb, c + j, ldc, add);
    for (; left >= 2; left -= 2, j += 2 * W) strip<2>(m, k, a, ai, ap, b + j, ldb, c + j, ldc, add);
    if (left) strip<1>(m, k, a, ai, ap, b + j, ldb, c + j, ldc, add);
}

struct Strides {
    Index batch, head, row;
};

// A mask is boolean (true: seen) or is added to the scores, in T; either may be absent. `causal` adds the triangle.
template <class T> struct Attention {
    const T *query, *key, *value;
    Strides qs, ks, vs;
    const uint8_t* seen;
    const T* bias;
    Strides ms;
    Index mask_column;
    Index batch, heads, groups, queries, keys, size;  // `groups` query heads share a key head
    bool causal;
    float scaling;
    Drop drop;

    Index room() const { return padded(keys); }
    Index width() const { return padded(size); }

    // Query rows of a block, so that its scores stay in a core's own cache.
    Index block() const {
        Index rows = 24576 / room() / 8 * 8;
        return rows < 8 ? 8 : rows > 48 ? 48 : rows;
    }

    // Of a text's keys, those up to the last that any of its queries sees, and whether some before it are hidden.
    struct Seen {
        Index keys;
        bool holes;
    };

    Index mask_heads() const { return seen && ms.head ? heads : 1; }

    // Fills `found` for every text, and for every head that has a mask of its own.
    void find_seen_keys(Seen* found) const {
        Index masks = mask_heads();
#pragma omp parallel for schedule(static)
        for (Index unit = 0; unit < batch * masks; unit++) {
            found[unit] = {keys, bias != nullptr};
            if (!seen) continue;
            const uint8_t* text = seen + unit / masks * ms.batch + unit % masks * ms.head;
            Index rows = ms.row ? queries : 1, last = 0, shown = 0;
            for (Index i = 0; i < rows; i++) {
                const uint8_t* row = text + i * ms.row;
                if (mask_column == 1)
                    for (Index j = 0; j < keys; j++) shown += row[j];
                else
                    for (Index j = 0; j < keys; j++) shown += row[j * mask_column];
                Index end = keys;
                while (end > last && !row[(end - 1) * mask_column]) end--;
                last = end;
            }
            found[unit] = {last, shown < rows * last};
        }
    }

    // What the query heads that share a key head see together.
    Seen seen_by_group(const Seen* found, Index b, Index key_head) const {
        if (mask_heads() == 1) return found[b];
        Seen all = found[b * heads + key_head * groups];
        for (Index h = 1; h < groups; h++) {
            Seen other = found[b * heads + key_head * groups + h];
            all = {other.keys > all.keys ? other.keys : all.keys, all.holes || other.holes || other.keys != all.keys};
        }
        return all;
    }

    // Turns a head's scores of query i into what the softmax sees; what is not seen becomes -inf, up to n.
    void mask_row(float* s, Index b, Index h, Index i, Seen visible, Index n) const {
        Index limit = causal && i + 1 < visible.keys ? i + 1 : visible.keys;
        const Vec hidden = spread(-INFINITY);
        if (visible.holes) {
            Index at = b * ms.batch + h * ms.head + i * ms.row;
            for (Index j = 0; j < limit; j += W) {
                Index count = limit - j < W ? limit - j : W;
                Vec score = load(s + j);
                if (seen) {
                    VecB shown{};
                    const uint8_t* from = seen + at + j * mask_column;
                    if (mask_column == 1 && count == W)
                        memcpy(&shown, from, W);
                    else
                        for (Index c = 0; c < count; c++) shown[c] = from[c * mask_column];
                    score = (VecI)__builtin_convertvector(shown, VecU) != 0 ? score : hidden;
                } else {
                    T one[W];
                    for (Index c = 0; c < count; c++) one[c] = bias[at + (j + c) * mask_column];
                    score += load_first(one, count);
                }
                store(s + j, score);
            }
        }
        for (Index j = limit; j < n; j++) s[j] = -INFINITY;
    }

    Index bit_row(Index b, Index h, Index i) const { return ((b * heads + h) * queries + i) * words(keys); }

    void transpose(const T* from, Index stride, Index rows, Index ld, float* line, float* to) const {
        for (Index j = 0; j < rows; j++) {
            widen(from + j * stride, line, size);
            for (Index c = 0; c < size; c++) to[c * ld + j] = line[c];
        }
        for (Index c = 0; c < size; c++)
            for (Index j = rows; j < ld; j++) to[c * ld + j] = 0;
    }

    void scaled_query(const T* from, Index rows, float* to) const {
        Index w = width();
        for (Index i = 0; i < rows; i++) {
            widen(from + i * qs.row, to + i * w, size);
            for (Index c = 0; c < w; c += W) store(to + i * w + c, load(to + i * w + c) * scaling);
        }
    }

    // out (batch, queries, heads, size); logsumexp (batch, heads, queries) of the scores of a row, or null.
    Index forward(T* out, float* logsumexp) const {
        Index w = width(), nb = block(), kv = heads / groups, full = room();
        Shortage shortage;
        Buffer<Seen> found(batch * mask_heads(), shortage);
        if (!found.data) return shortage.bytes;
        find_seen_keys(found.data);
#pragma omp parallel for schedule(static)
        for (Index unit = 0; unit < batch * kv; unit++) {
            Index b = unit / kv, hk = unit % kv;
            Seen visible = seen_by_group(found.data, b, hk);
            Index used = visible.keys, n = padded(used);
            float* key_t = scratch(size * full + full * w + w + nb * (w + full + w) + bits_room(full), shortage);
            if (!key_t) continue;
            float *v = key_t + size * full, *line = v + full * w, *q = line + w, *s = q + nb * w, *o = s + nb * full;
            uint16_t* bits = (uint16_t*)(o + nb * w);
            transpose(key + b * ks.batch + hk * ks.head, ks.row, used, n, line, key_t);
            for (Index j = 0; j < used; j++) widen(value + b * vs.batch + hk * vs.head + j * vs.row, v + j * w, size);
            for (Index h = hk * groups; h < (hk + 1) * groups; h++)
                for (Index first = 0; first < queries; first += nb) {
                    Index rows = queries - first < nb ? queries - first : nb;
                    scaled_query(query + b * qs.batch + h * qs.head + first * qs.row, rows, q);
                    product(rows, n, size, q, w, 1, key_t, n, s, n, false);
                    for (Index i = 0; i < rows; i++) {
                        float* row = s + i * n;
                        mask_row(row, b, h, first + i, visible, n);
                        float whole = softmax(row, used, n, bits, b, h, first + i);
                        if (logsumexp) logsumexp[(b * heads + h) * queries + first + i] = whole;
                    }
                    product(rows, w, used, s, n, 1, v, w, o, w, false);
                    for (Index i = 0; i < rows; i++)
                        narrow(o + i * w, out + ((b * queries + first + i) * heads + h) * size, size);
                }
        }
        return shortage.bytes;
    }

    // Scores -> dropped probabilities, in place; a row that sees nothing becomes zeros. Returns their logsumexp.
    float softmax(float* row, Index used, Index n, uint16_t* bits, Index b, Index h, Index i) const {
        Vec top = spread(-INFINITY);
        for (Index j = 0; j < n; j += W) top = larger(load(row + j), top);
        float highest = largest(top);
        if (highest == -INFINITY) {
            // Nothing is seen, or nothing is a number: that must not end in numbers, or a run would not see it diverge.
            Vec seen_at_all{};
            for (Index j = 0; j < n; j += W) seen_at_all += load(row + j);
            float nothing = std::isnan(sum(seen_at_all)) ? NAN : 0.0f;
            for (Index j = 0; j < n; j++) row[j] = nothing;
            return nothing == 0 ? INFINITY : NAN;
        }
        Vec total{};
        for (Index j = 0; j < n; j += W) {
            Vec e = exp<EXACT<T>>(load(row + j) - highest);
            total += e;
            store(row + j, e);
        }
        float whole = sum(total), factor = (drop.on() ? drop.scale : 1.0f) / whole;
        if (drop.on()) fill_bits(drop.key, bit_row(b, h, i), used, bits);
        for (Index j = 0; j < n; j += W) {
            Vec p = load(row + j) * factor;
            store(row + j, drop.on() ? masked(p, bits + j, drop) : p);
        }
        return highest + logf(whole);
    }

    // Gradients as (batch, queries or keys, heads or key heads, size).
    Index backward(const T* gradient, const float* logsumexp, T* grad_query, T* grad_key, T* grad_value) const {
        Index w = width(), nb = block(), kv = heads / groups, full = room();
        Shortage shortage;
        Buffer<Seen> found(batch * mask_heads(), shortage);
        if (!found.data) return shortage.bytes;
        find_seen_keys(found.data);
#pragma omp parallel for schedule(static)
        for (Index unit = 0; unit < batch * kv; unit++) {
            Index b = unit / kv, hk = unit % kv;
            Seen visible = seen_by_group(found.data, b, hk);
            Index used = visible.keys, n = padded(used);
            float* key_t = scratch(2 * size * full + 3 * full * w + w + nb * (3 * w + 2 * full) + bits_room(full), shortage);
            if (!key_t) continue;
            float *value_t = key_t + size * full, *k = value_t + size * full, *gk = k + full * w,
                  *gv = gk + full * w, *line = gv + full * w, *q = line + w, *g = q + nb * w, *gq = g + nb * w,
                  *s = gq + nb * w, *t = s + nb * full;
            uint16_t* bits = (uint16_t*)(t + nb * full);
            const T *keys_here = key + b * ks.batch + hk * ks.head, *values_here = value + b * vs.batch + hk * vs.head;
            transpose(keys_here, ks.row, used, n, line, key_t);
            transpose(values_here, vs.row, used, n, line, value_t);
            for (Index j = 0; j < used; j++) widen(keys_here + j * ks.row, k + j * w, size);
            memset(gk, 0, keys * w * 4);
            memset(gv, 0, keys * w * 4);
            for (Index h = hk * groups; h < (hk + 1) * groups; h++)
                for (Index first = 0; first < queries; first += nb) {
                    Index rows = queries - first < nb ? queries - first : nb;
                    scaled_query(query + b * qs.batch + h * qs.head + first * qs.row, rows, q);
                    for (Index i = 0; i < rows; i++)
                        widen(gradient + ((b * queries + first + i) * heads + h) * size, g + i * w, size);
                    product(rows, n, size, q, w, 1, key_t, n, s, n, false);
                    product(rows, n, size, g, w, 1, value_t, n, t, n, false);
                    for (Index i = 0; i < rows; i++) {
                        mask_row(s + i * n, b, h, first + i, visible, n);
                        softmax_backward(s + i * n, t + i * n, logsumexp[(b * heads + h) * queries + first + i], used, n, bits,
                                         b, h, first + i);
                    }
                    product(used, w, rows, s, 1, n, g, w, gv, w, true);
                    product(used, w, rows, t, 1, n, q, w, gk, w, true);
                    product(rows, w, used, t, n, 1, k, w, gq, w, false);
                    for (Index i = 0; i < rows; i++) {
                        for (Index c = 0; c < w; c += W) store(gq + i * w + c, load(gq + i * w + c) * scaling);
                        narrow(gq + i * w, grad_query + ((b * queries + first + i) * heads + h) * size, size);
                    }
                }
            for (Index j = 0; j < keys; j++) {
                narrow(gk + j * w, grad_key + ((b * keys + j) * kv + hk) * size, size);
                narrow(gv + j * w, grad_value + ((b * keys + j) * kv + hk) * size, size);
            }
        }
        return shortage.bytes;
    }

    // Scores and gradients of dropped probabilities -> dropped probabilities and gradients of scores.
    void softmax_backward(float* s, float* t, float logsumexp, Index used, Index n, uint16_t* bits, Index b, Index h,
                          Index i) const {
        if (drop.on()) fill_bits(drop.key, bit_row(b, h, i), used, bits);
        Vec along{};
        for (Index j = 0; j < n; j += W) {
            Vec p = exp<EXACT<T>>(load(s + j) - logsumexp), g = load(t + j);
            if (drop.on()) g = masked(g * drop.scale, bits + j, drop);
            store(s + j, p);
            store(t + j, g);
            along += p * g;
        }
        float mean = sum(along);
        for (Index j = 0; j < n; j += W) {
            Vec p = load(s + j);
            store(t + j, p * (load(t + j) - mean));
            if (drop.on()) store(s + j, masked(p * drop.scale, bits + j, drop));
        }
    }
};
