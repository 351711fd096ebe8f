// Memory of the kernels. Every allocation goes through `Shortage::allocate`, so none is used unchecked.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

// Counts what the system did not give in a call of a kernel. The kernel returns it, and Python raises an error.
struct Shortage {
    // Bytes of an allocation that failed; 0 while there was none. Threads write it beside each other.
    std::atomic<int64_t> bytes{0};

    // Memory aligned to a power of two, or null where there is none.
    char* allocate(size_t alignment, size_t size) {
        size = (size / alignment + 1) * alignment;  // aligned_alloc wants a multiple, and more than nothing
        char* memory = (char*)aligned_alloc(alignment, size);
        if (!memory) bytes = (int64_t)size;
        return memory;
    }
};

// Memory of a call, freed at its end; `data` is null where there was none.
template <class T> struct Buffer {
    T* const data;
    Buffer(int64_t count, Shortage& shortage) : data((T*)shortage.allocate(64, (size_t)count * sizeof(T))) {}
    ~Buffer() { free(data); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
};

// Memory of a thread that lasts as long as it does, grown where it is too small.
struct Scratch {
    char* memory = nullptr;
    size_t size = 0;
    ~Scratch() { free(memory); }
};

// So many floats of the thread's scratch, or null where there is no memory for them.
static inline float* scratch(int64_t floats, Shortage& shortage) {
    static thread_local Scratch own;
    size_t wanted = ((size_t)floats * 4 + 4095) / 4096 * 4096;
    if (wanted > own.size) {
        free(own.memory);
        own.memory = shortage.allocate(4096, wanted);
        own.size = own.memory ? wanted : 0;
    }
    return (float*)own.memory;
}
