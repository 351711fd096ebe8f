// Vectors of W numbers, bfloat16 as integers, random bits, exp: what the kernels are written in.
//
// GCC's and Clang's vector types become the widest registers that -march=native allows, on any processor.
#pragma once

#include <cstdint>
#include <cstring>
#include <cmath>

#include "memory.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_max_threads() { return 1; }
static inline int omp_get_thread_num() { return 0; }
#endif

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int32_t VecI __attribute__((vector_size(4 * W)));
typedef uint32_t VecU __attribute__((vector_size(4 * W)));
typedef uint16_t VecH __attribute__((vector_size(2 * W)));
typedef uint8_t VecB __attribute__((vector_size(W)));
typedef uint64_t VecQ __attribute__((vector_size(4 * W)));

typedef int64_t Index;
typedef uint16_t bf16;

static inline Index padded(Index n) { return (n + W - 1) / W * W; }

static inline Vec spread(float x) { return x - Vec{}; }

static inline Vec load(const float* p) {
    Vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline VecU load_words(const uint16_t* p) {
#ifdef __AVX512F__
    return (VecU)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));  // GCC 12 makes two halves of it
#else
    VecH h;
    memcpy(&h, p, sizeof h);
    return __builtin_convertvector(h, VecU);
#endif
}

static inline Vec load(const bf16* p) { return (Vec)(load_words(p) << 16); }

static inline void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

static inline void store(bf16* p, Vec v) {
#ifdef __AVX512BF16__
    __m256bh h = _mm512_cvtneps_pbh((__m512)v);
#else
    VecU u = (VecU)v;
    u += 0x7fff + ((u >> 16) & 1);  // to the nearest, ties to even
    VecH h = __builtin_convertvector(u >> 16, VecH);
#endif
    memcpy(p, &h, sizeof h);
}

template <class T> static inline Vec load_first(const T* p, Index n) {
    T all[W] = {};
    memcpy(all, p, n * sizeof(T));
    return load(all);
}

template <class T> static inline void store_first(T* p, Vec v, Index n) {
    T all[W];
    store(all, v);
    memcpy(p, all, n * sizeof(T));
}

// Copy n numbers to floats, with zeros up to a whole vector.
template <class T> static inline void widen(const T* from, float* to, Index n) {
    Index i = 0;
    for (; i + W <= n; i += W) store(to + i, load(from + i));
    if (i < n) store(to + i, load_first(from + i, n - i));
}

template <class T> static inline void narrow(const float* from, T* to, Index n) {
    Index i = 0;
    for (; i + W <= n; i += W) store(to + i, load(from + i));
    if (i < n) store_first(to + i, load(from + i), n - i);
}

static inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

static inline float sum(Vec v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)v);
#else
    float all[W];
    store(all, v);
    for (int width = W / 2; width; width /= 2)
        for (int i = 0; i < width; i++) all[i] += all[i + width];
    return all[0];
#endif
}

static inline float largest(Vec v) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)v);
#else
    float all[W];
    store(all, v);
    for (int width = W / 2; width; width /= 2)
        for (int i = 0; i < width; i++) all[i] = all[i] > all[i + width] ? all[i] : all[i + width];
    return all[0];
#endif
}

// How exactly functions are computed that end in a T: to its last bits or somewhat better.
template <class T> constexpr bool EXACT = sizeof(T) == 4;

// 1 / x within two units in the last place, or 2^-14.
template <bool exact> static inline Vec inverse(Vec x) {
#ifdef __AVX512F__
    Vec r = (Vec)_mm512_rcp14_ps((__m512)x);  // with a step of Newton a quarter of the time of a division
    return exact ? r * (2.0f - x * r) : r;
#else
    return 1.0f / x;
#endif
}

// e^x within 2 units in the last place, or 7.5e-5, for x up to 0 (or little above); 0 below -87.3; a NaN stays one.
template <bool exact> static inline Vec exp(Vec x) {
    VecI flushed = x < -87.33654f;
    Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the rounded number
    VecI exponent = (VecI)shifted << 23;
    Vec n = shifted - 12582912.0f, p;
    if (exact) {
        Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
        p = spread(1.9875691500e-4f);
        p = p * r + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = p * r * r + r + 1.0f;
    } else {
        Vec r = x * 1.44269504f - n;  // 2^r by the polynomial of degree 3 that deviates least in proportion
        p = spread(5.5171418e-2f) * r + 2.4261117e-1f;
        p = p * r + 6.9326106e-1f;
        p = p * r + 9.9992807e-1f;
    }
    return flushed ? Vec{} : (Vec)((VecI)p + exponent);
}

// 1 / (1 + e^-x)
template <bool exact> static inline Vec logistic(Vec x) {
    Vec e = exp<exact>(x < 0 ? x : -x), small = e * inverse<exact>(1.0f + e);
    return x < 0 ? small : 1.0f - small;
}

// Random bits: word i of a key is SplitMix64's output i + 1 from that seed (Steele, Lea, Flood, OOPSLA 2014), and gives
// 16 bits to each of four neighbours. A mask is made again from its key rather than saved.
static const uint64_t GOLDEN = 0x9e3779b97f4a7c15ull;
constexpr int PER_WORD = 4;

static inline Index words(Index elements) { return (elements + PER_WORD - 1) / PER_WORD; }

// Room that fill_bits writes for so many elements.
static inline Index bits_room(Index elements) { return (elements + 2 * W - 1) / (2 * W) * (2 * W) + 2 * W; }

static inline void fill_bits(uint64_t key, Index first_word, Index elements, uint16_t* bits) {
    VecQ step, z;
    for (int i = 0; i < W / 2; i++) step[i] = key + GOLDEN * (uint64_t)(first_word + 1 + i);
    for (Index i = 0; i < elements; i += 2 * W) {
        z = step;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        z = z ^ (z >> 31);
        memcpy(bits + i, &z, sizeof z);
        step += GOLDEN * (W / 2);
    }
}

// What dropout drops: elements whose lower 15 bits are below `below` of 2^15. Survivors are multiplied by `scale`.
struct Drop {
    uint64_t key;
    int32_t below;
    float scale;
    bool on() const { return below > 0; }
};

// `values` where the bits keep them, else 0.
static inline Vec masked(Vec values, const uint16_t* bits, const Drop& drop) {
    VecI u = (VecI)(load_words(bits) & 0x7fff);
    return u < drop.below ? Vec{} : values;
}
