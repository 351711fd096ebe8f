// Kernels that go over rows: dropout, GELU, the sum and layer norm of a residual block, LoRA.
#pragma once

#include "vectors.h"

constexpr Index CHUNK = 4096;

template <class T> void drop_elements(const T* x, T* out, Index rows, Index d, Drop drop) {
    Index chunks = (d + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static)
    for (Index unit = 0; unit < rows * chunks; unit++) {
        uint16_t bits[CHUNK + 4 * W];
        Index row = unit / chunks, start = unit % chunks * CHUNK, count = d - start < CHUNK ? d - start : CHUNK, i = 0;
        fill_bits(drop.key, row * words(d) + words(start), count, bits);
        const T* from = x + row * d + start;
        T* to = out + row * d + start;
        for (; i + W <= count; i += W) store(to + i, masked(load(from + i) * drop.scale, bits + i, drop));
        if (i < count) store_first(to + i, masked(load_first(from + i, count - i) * drop.scale, bits + i, drop), count - i);
    }
}

// Phi(v), the normal distribution, and its density, by Abramowitz and Stegun 7.1.26, or 7.1.25 (to 2.5e-5).
template <bool exact> static inline void normal(Vec v, Vec& below, Vec& density) {
    Vec z = (v < 0 ? -v : v) * 0.70710678f, e = exp<exact>(-z * z), p;
    if (exact) {
        Vec t = inverse<exact>(1.0f + 0.3275911f * z);
        p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    } else {
        Vec t = inverse<exact>(1.0f + 0.47047f * z);
        p = t * (0.3480242f + t * (-0.0958798f + t * 0.7478556f));
    }
    Vec tail = 0.5f * p * e;
    below = v < 0 ? tail : 1.0f - tail;
    density = e * 0.39894228f;
}

template <class T> struct ErfGelu {
    static inline void apply(Vec v, Vec& value, Vec& slope) {
        Vec below, density;
        normal<EXACT<T>>(v, below, density);
        value = v * below;
        slope = below + v * density;
    }
};

template <class T> struct TanhGelu {
    static inline void apply(Vec v, Vec& value, Vec& slope) {
        // 0.5 (1 + tanh u) is the logistic function of 2 u.
        Vec s = logistic<EXACT<T>>(1.5957691216f * (v + 0.044715f * v * v * v));
        value = v * s;
        slope = s + value * (1.0f - s) * 1.5957691216f * (1.0f + 0.134145f * v * v);
    }
};

template <class T> struct Silu {
    static inline void apply(Vec v, Vec& value, Vec& slope) {
        Vec s = logistic<EXACT<T>>(v);
        value = v * s;
        slope = s + value * (1.0f - s);
    }
};

// slope may be null, where no gradient is wanted.
template <class T, template <class> class F> void activate(const T* x, T* out, T* slope, Index n) {
#pragma omp parallel for schedule(static)
    for (Index start = 0; start < n; start += CHUNK) {
        Index end = start + CHUNK < n ? start + CHUNK : n, i = start;
        Vec value, gradient;
        for (; i + W <= end; i += W) {
            F<T>::apply(load(x + i), value, gradient);
            store(out + i, value);
            if (slope) store(slope + i, gradient);
        }
        if (i < end) {
            F<T>::apply(load_first(x + i, end - i), value, gradient);
            store_first(out + i, value, end - i);
            if (slope) store_first(slope + i, gradient, end - i);
        }
    }
}

template <class T> void multiply_elements(const T* a, const T* b, T* out, Index n) {
#pragma omp parallel for schedule(static)
    for (Index start = 0; start < n; start += CHUNK) {
        Index end = start + CHUNK < n ? start + CHUNK : n, i = start;
        for (; i + W <= end; i += W) store(out + i, load(a + i) * load(b + i));
        if (i < end) store_first(out + i, load_first(a + i, end - i) * load_first(b + i, end - i), end - i);
    }
}

// out = norm(drop(x) + residual) * gain + shift; saved for backward: the normed rows and 1 / deviation.
template <class T>
Index residual_norm(const T* x, const T* residual, const float* gain, const float* shift, float epsilon, Drop drop, T* out,
                   T* normed, float* inverse, Index rows, Index d) {
    Index room = padded(d);
    Shortage shortage;
#pragma omp parallel for schedule(static)
    for (Index row = 0; row < rows; row++) {
        float* y = scratch(2 * room + bits_room(d), shortage);
        if (!y) continue;
        float* other = y + room;
        uint16_t* bits = (uint16_t*)(other + room);
        widen(x + row * d, y, d);
        widen(residual + row * d, other, d);
        if (drop.on()) fill_bits(drop.key, row * words(d), d, bits);
        Vec total{};
        for (Index i = 0; i < d; i += W) {
            Vec v = load(y + i);
            if (drop.on()) v = masked(v * drop.scale, bits + i, drop);
            v += load(other + i);
            store(y + i, v);
            total += v;
        }
        float mean = sum(total) / d;
        Vec squares{};
        Index i = 0;
        for (; i + W <= d; i += W) {
            Vec v = load(y + i) - mean;
            store(y + i, v);
            squares += v * v;
        }
        for (; i < d; i++) {
            y[i] -= mean;
            squares[0] += y[i] * y[i];
        }
        // Rows too large to be squared would all become zeros: a run would not see that it diverges.
        float variance = sum(squares) / d, scale = std::isfinite(variance) ? 1.0f / sqrtf(variance + epsilon) : NAN;
        if (inverse) inverse[row] = scale;
        for (i = 0; i + W <= d; i += W) {
            Vec v = load(y + i) * scale;
            if (normed) store(normed + row * d + i, v);
            store(out + row * d + i, v * load(gain + i) + load(shift + i));
        }
        if (i < d) {
            Vec v = load(y + i) * scale;
            if (normed) store_first(normed + row * d + i, v, d - i);
            store_first(out + row * d + i, v * load_first(gain + i, d - i) + load_first(shift + i, d - i), d - i);
        }
    }
    return shortage.bytes;
}

// grad_x or grad_residual may be null.
template <class T>
Index residual_norm_backward(const T* gradient, const T* normed, const float* inverse, const float* gain, Drop drop,
                            T* grad_x, T* grad_residual, Index rows, Index d) {
    Index room = padded(d);
    Shortage shortage;
#pragma omp parallel for schedule(static)
    for (Index row = 0; row < rows; row++) {
        float* g = scratch(3 * room + bits_room(d), shortage);
        if (!g) continue;
        float *h = g + room, *w = h + room;
        uint16_t* bits = (uint16_t*)(w + room);
        widen(gradient + row * d, g, d);
        widen(normed + row * d, h, d);
        widen(gain, w, d);
        Vec first{}, second{};
        for (Index i = 0; i < d; i += W) {
            Vec v = load(g + i) * load(w + i);
            store(g + i, v);
            first += v;
            second += v * load(h + i);
        }
        float mean = sum(first) / d, along = sum(second) / d;
        for (Index i = 0; i < d; i += W) store(g + i, (load(g + i) - mean - load(h + i) * along) * inverse[row]);
        if (grad_residual) narrow(g, grad_residual + row * d, d);
        if (!grad_x) continue;
        if (drop.on()) {
            fill_bits(drop.key, row * words(d), d, bits);
            for (Index i = 0; i < d; i += W) store(g + i, masked(load(g + i) * drop.scale, bits + i, drop));
        }
        narrow(g, grad_x + row * d, d);
    }
    return shortage.bytes;
}

// LoRA's factors with their rank filled up to whole blocks: A (rank, d) as it is, B (o, rank) transposed to (rank, o).
constexpr int RANKS = 8;
constexpr int ROWS = 4;

static inline void pack_factors(const float* a, const float* b, Index rank, Index ranks, Index d, Index o, float* pa,
                                float* pb) {
    Index dp = padded(d), op = padded(o);
    memset(pa, 0, ranks * dp * 4);
    memset(pb, 0, ranks * op * 4);
    for (Index r = 0; r < rank; r++) memcpy(pa + r * dp, a + r * d, d * 4);
    for (Index c = 0; c < o; c++)
        for (Index r = 0; r < rank; r++) pb[r * op + c] = b[c * rank + r];
}

// y[k][r] = factor * dot(x[k], m[r]) of ROWS rows x and RANKS rows m.
static inline void dots(const float* x, Index ldx, const float* m, Index ldm, Index n, float factor, float* y, Index ldy) {
    for (int k = 0; k < ROWS; k += 2) {
        Vec acc[2][RANKS] = {};
        for (Index i = 0; i < n; i += W) {
            Vec x0 = load(x + k * ldx + i), x1 = load(x + (k + 1) * ldx + i);
#pragma GCC unroll 8
            for (int r = 0; r < RANKS; r++) {
                Vec v = load(m + r * ldm + i);
                acc[0][r] += x0 * v;
                acc[1][r] += x1 * v;
            }
        }
        for (int j = 0; j < 2; j++)
            for (int r = 0; r < RANKS; r++) y[(k + j) * ldy + r] = factor * sum(acc[j][r]);
    }
}

// out[k] += sum over r of y[k][r] m[r], for ROWS rows.
static inline void expand(const float* y, Index ldy, const float* m, Index ldm, Index n, float* out, Index ldo) {
    for (Index i = 0; i < n; i += W) {
        Vec acc[ROWS];
#pragma GCC unroll 4
        for (int k = 0; k < ROWS; k++) acc[k] = load(out + k * ldo + i);
#pragma GCC unroll 8
        for (int r = 0; r < RANKS; r++) {
            Vec v = load(m + r * ldm + i);
#pragma GCC unroll 4
            for (int k = 0; k < ROWS; k++) acc[k] += y[k * ldy + r] * v;
        }
#pragma GCC unroll 4
        for (int k = 0; k < ROWS; k++) store(out + k * ldo + i, acc[k]);
    }
}

// m[r] += sum over k of y[k][r] x[k], for ROWS rows.
static inline void gather(const float* y, Index ldy, const float* x, Index ldx, Index n, float* m, Index ldm) {
    for (Index i = 0; i < n; i += W) {
        Vec v[ROWS];
#pragma GCC unroll 4
        for (int k = 0; k < ROWS; k++) v[k] = load(x + k * ldx + i);
#pragma GCC unroll 8
        for (int r = 0; r < RANKS; r++) {
            Vec acc = load(m + r * ldm + i);
#pragma GCC unroll 4
            for (int k = 0; k < ROWS; k++) acc += y[k * ldy + r] * v[k];
            store(m + r * ldm + i, acc);
        }
    }
}

template <class T>
static inline void widen_rows(const T* x, Index first, Index rows, Index d, Index room, const Drop* drop, uint16_t* bits,
                              float* to) {
    for (int k = 0; k < ROWS; k++) {
        float* row = to + k * room;
        if (first + k >= rows) {
            memset(row, 0, room * 4);
            continue;
        }
        widen(x + (first + k) * d, row, d);
        if (!drop || !drop->on()) continue;
        fill_bits(drop->key, (first + k) * words(d), d, bits);
        for (Index i = 0; i < d; i += W) store(row + i, masked(load(row + i), bits + i, *drop));
    }
}

// out += factor B A drop(x), where drop leaves survivors as they are; down = A drop(x), (rows, ranks).
template <class T>
Index lora(const T* x, const float* a, const float* b, Drop drop, float factor, T* out, float* down, Index rows, Index d,
          Index o, Index rank) {
    Index ranks = (rank + RANKS - 1) / RANKS * RANKS, dp = padded(d), op = padded(o);
    Shortage shortage;
    Buffer<float> factors(ranks * (dp + op), shortage);
    if (!factors.data) return shortage.bytes;
    float *pa = factors.data, *pb = pa + ranks * dp;
    pack_factors(a, b, rank, ranks, d, o, pa, pb);
#pragma omp parallel for schedule(static)
    for (Index first = 0; first < rows; first += ROWS) {
        float* xs = scratch(ROWS * (dp + op + 2 * ranks) + bits_room(d), shortage);
        if (!xs) continue;
        float *ys = xs + ROWS * dp, *lows = ys + ROWS * op, *scaled = lows + ROWS * ranks;
        uint16_t* bits = (uint16_t*)(scaled + ROWS * ranks);
        widen_rows(x, first, rows, d, dp, &drop, bits, xs);
        widen_rows(out, first, rows, o, op, nullptr, bits, ys);
        for (Index r = 0; r < ranks; r += RANKS) {
            dots(xs, dp, pa + r * dp, dp, dp, 1.0f, lows + r, ranks);
        }
        for (Index i = 0; i < ROWS * ranks; i++) scaled[i] = factor * lows[i];
        for (Index r = 0; r < ranks; r += RANKS) expand(scaled + r, ranks, pb + r * op, op, op, ys, op);
        for (int k = 0; k < ROWS && first + k < rows; k++) {
            narrow(ys + k * op, out + (first + k) * o, o);
            memcpy(down + (first + k) * ranks, lows + k * ranks, ranks * 4);
        }
    }
    return shortage.bytes;
}

// Adds to grad_x, which may be null; writes grad_a (rank, d) and grad_b (o, rank).
template <class T>
Index lora_backward(const T* gradient, const T* x, const float* a, const float* b, const float* down, Drop drop, float factor,
                   T* grad_x, float* grad_a, float* grad_b, Index rows, Index d, Index o, Index rank) {
    Index ranks = (rank + RANKS - 1) / RANKS * RANKS, dp = padded(d), op = padded(o), size = ranks * (dp + op);
    int threads = omp_get_max_threads();
    Shortage shortage;
    Buffer<float> buffer(size * (threads + 1), shortage);
    if (!buffer.data) return shortage.bytes;
    float *memory = buffer.data, *pa = memory, *pb = memory + ranks * dp;
    pack_factors(a, b, rank, ranks, d, o, pa, pb);
    Index blocks = (rows + ROWS - 1) / ROWS;
    memset(memory + size, 0, size * threads * 4);
    // A loop over threads: each has its own sums, added up in their order, so that the result is always the same.
#pragma omp parallel for schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        float *sum_a = memory + size * (thread + 1), *sum_b = sum_a + ranks * dp;
        float* xs = scratch(ROWS * (dp + op + dp + 2 * ranks) + bits_room(d), shortage);
        if (!xs) continue;
        float *gs = xs + ROWS * dp, *ds = gs + ROWS * op, *s = ds + ROWS * dp, *lows = s + ROWS * ranks;
        uint16_t* bits = (uint16_t*)(lows + ROWS * ranks);
        for (Index block = blocks * thread / threads; block < blocks * (thread + 1) / threads; block++) {
            Index first = block * ROWS;
            widen_rows(x, first, rows, d, dp, &drop, bits, xs);
            widen_rows(gradient, first, rows, o, op, nullptr, bits, gs);
            memset(lows, 0, ROWS * ranks * 4);
            for (int k = 0; k < ROWS && first + k < rows; k++)
                memcpy(lows + k * ranks, down + (first + k) * ranks, ranks * 4);
            memset(ds, 0, ROWS * dp * 4);
            for (Index r = 0; r < ranks; r += RANKS) {
                dots(gs, op, pb + r * op, op, op, factor, s + r, ranks);
                gather(lows + r, ranks, gs, op, op, sum_b + r * op, op);
                gather(s + r, ranks, xs, dp, dp, sum_a + r * dp, dp);
                if (grad_x) expand(s + r, ranks, pa + r * dp, dp, dp, ds, dp);
            }
            for (int k = 0; grad_x && k < ROWS && first + k < rows; k++) {
                float *change = ds + k * dp, *row = xs + k * dp;
                if (drop.on()) fill_bits(drop.key, (first + k) * words(d), d, bits);
                widen(grad_x + (first + k) * d, row, d);
                for (Index i = 0; i < dp; i += W) {
                    Vec v = load(change + i);
                    store(row + i, load(row + i) + (drop.on() ? masked(v, bits + i, drop) : v));
                }
                narrow(row, grad_x + (first + k) * d, d);
            }
        }
    }
    for (int thread = 1; thread < threads; thread++)
        for (Index i = 0; i < size; i++) memory[size + i] += memory[size * (thread + 1) + i];
    float *sum_a = memory + size, *sum_b = sum_a + ranks * dp;
    for (Index r = 0; r < rank; r++) memcpy(grad_a + r * d, sum_a + r * dp, d * 4);
    for (Index c = 0; c < o; c++)
        for (Index r = 0; r < rank; r++) grad_b[c * rank + r] = factor * sum_b[r * op + c];
    return shortage.bytes;
}
