// Products of bfloat16 matrices by AMX, for a weight that is held in the order in which its tiles are read.
#pragma once

#include "vectors.h"

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>

// A tile holds 16 rows of 64 bytes: 16 x 32 of the input, 32 x 16 of the weight (in pairs), 16 x 16 sums in float32.
constexpr int TILE = 16, DEPTH = 32;

struct TileShapes {
    uint8_t palette = 1, first_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
    TileShapes() {
        for (int i = 0; i < 8; i++) bytes[i] = 64, rows[i] = TILE;
    }
};

// Asks the system for the right to use tiles, which a process has to do once.
static inline bool tiles_are_granted() {
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;
    static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return granted;
}

// Sums of a 32 x 32 block over all depths: x at `ld` elements a row, two columns of weight tiles.
static inline void tiles(const bf16* x, Index ld, const bf16* w, Index depths, float* sums) {
    const bf16 *low = x + TILE * ld, *right = w + depths * TILE * DEPTH;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (Index k = 0; k < depths; k++) {
        _tile_loadd(4, x + k * DEPTH, ld * 2);
        _tile_loadd(6, w + k * TILE * DEPTH, 64);
        _tile_loadd(5, low + k * DEPTH, ld * 2);
        _tile_loadd(7, right + k * TILE * DEPTH, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 128);
    _tile_stored(1, sums + TILE, 128);
    _tile_stored(2, sums + 2 * TILE * TILE, 128);
    _tile_stored(3, sums + 2 * TILE * TILE + TILE, 128);
}

// out (rows, o) = x (rows, d) W + bias, where W is packed as (o / 16, d / 32, 16, 16, 2); o and d are multiples of 32.
static inline Index product_by_tiles(const bf16* x, const bf16* w, const bf16* bias, bf16* out, Index rows, Index d, Index o) {
    Shortage shortage;
    constexpr Index BLOCK = 2 * TILE, CACHED = 1 << 19;
    Index blocks = (rows + BLOCK - 1) / BLOCK, depths = d / DEPTH, columns = o / BLOCK;
    // Columns are gone through for as many rows of x at a time as stay in a core's own cache beside the weight.
    Index group = CACHED / (BLOCK * d * 2) > 0 ? CACHED / (BLOCK * d * 2) : 1;
#pragma omp parallel
    {
        TileShapes shapes;
        _tile_loadconfig(&shapes);
        alignas(64) float sums[BLOCK * BLOCK];
        bf16* last = (bf16*)scratch(BLOCK * d / 2, shortage);  // the rows of a block that is not full
#pragma omp for schedule(static)
        for (Index unit = 0; unit < blocks * columns; unit++) {
            Index first = unit / (group * columns) * group, size = blocks - first < group ? blocks - first : group;
            Index place = unit - first * columns;
            Index row = (first + place % size) * BLOCK, column = place / size * BLOCK;
            Index count = rows - row < BLOCK ? rows - row : BLOCK;
            const bf16* from = x + row * d;
            if (!last) continue;
            if (count < BLOCK) {
                memset(last, 0, BLOCK * d * 2);
                memcpy(last, from, count * d * 2);
                from = last;
            }
            tiles(from, d, w + column * d, depths, sums);
            for (Index j = 0; j < BLOCK; j += W) {
                Vec shift = bias ? load(bias + column + j) : Vec{};
                for (Index i = 0; i < count; i++) store(out + (row + i) * o + column + j, load(sums + i * BLOCK + j) + shift);
            }
        }
        _tile_release();
    }
    return shortage.bytes;
}
#endif
