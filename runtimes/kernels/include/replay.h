// Calls of kernels that were recorded (replay.py), made one after the other: a program that starts hundreds of small kernels
// at every token spends more time in Python between them than in them.

#pragma once

#include <cstdint>

constexpr int MOST_ARGUMENTS = 16;

struct Call {
  int64_t function;
  int64_t arguments[MOST_ARGUMENTS];  // addresses and integers; a function leaves those alone that it does not have
};

extern "C" void replay(const Call* calls, int64_t count) {
  using Function = void (*)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                            int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
  for (int64_t i = 0; i < count; i++) {
    const int64_t* a = calls[i].arguments;
    ((Function)calls[i].function)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13],
                                  a[14], a[15]);
  }
}
