// Included before the kernels by starved.py: an allocation fails when it is told to.
#pragma once

#include <atomic>
#include <cstdlib>

// Allocations that succeed before one fails; below 0 all of them do.
static std::atomic<long> before_failure{-1};

extern "C" __attribute__((visibility("default"))) void fail_after(long allocations) { before_failure = allocations; }

static inline bool fails() { return before_failure >= 0 && before_failure-- == 0; }

static inline void* starved_aligned_alloc(size_t alignment, size_t size) {
    return fails() ? nullptr : aligned_alloc(alignment, size);
}

static inline void* starved_malloc(size_t size) { return fails() ? nullptr : malloc(size); }

#define aligned_alloc(alignment, size) starved_aligned_alloc(alignment, size)
#define malloc(size) starved_malloc(size)
