// Memory that a thread keeps from one call to the next.

#pragma once

#include <cstdint>
#include <vector>

// At least `size` numbers from the start of a line of the cache: what lies across two lines is read at half the rate.
template <class T>
static T* kept(std::vector<T>& memory, int64_t size) {
  if ((int64_t)memory.size() < size + 64 / (int)sizeof(T)) memory.resize(size + 64 / sizeof(T));
  return (T*)(((uintptr_t)memory.data() + 63) & ~(uintptr_t)63);
}
