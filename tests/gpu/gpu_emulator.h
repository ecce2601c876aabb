// Runs CUDA C++ kernels on a CPU, one thread block after the other, for tests of their numbers.
//
// Every GPU thread is a fiber with a stack of its own; a barrier hands over to the next one. The
// order in which the threads of a block run is shuffled with a seed before every round, so that a
// barrier that is missing shows as wrong numbers sooner or later. Warps run their tensor-core
// fragments as whole matrices on the first lane. Says nothing about speed, and nothing about what a
// real GPU does beyond the CUDA programming guide's words.
#include <ucontext.h>

// Each kernel is compiled by itself, so nothing is included that takes long to read.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(n)
#define uint unsigned int
#define uchar unsigned char
#define ushort unsigned short

struct Index3 { int x, y, z; };
static Index3 threadIdx, blockIdx, blockDim, gridDim;

// ---- fibers -------------------------------------------------------------------------------------
enum State { READY, BLOCK_BARRIER, WARP_BARRIER, DONE };
struct Fiber {
  ucontext_t context;
  State state;
  Index3 index;
  char* stack;
};
static const int MOST = 1024;
static Fiber fibers[MOST];
static int fiber_count;
static ucontext_t scheduler;
static Fiber* running;
static void (*kernel_body)(void**);
static void** kernel_arguments;
static const size_t STACK = 192 * 1024;

static void fiber_main() {
  kernel_body(kernel_arguments);
  running->state = DONE;
  swapcontext(&running->context, &scheduler);
}
static void wait_for(State barrier) {
  running->state = barrier;
  swapcontext(&running->context, &scheduler);
}
static void __syncthreads() { wait_for(BLOCK_BARRIER); }
static int linear_thread() {
  return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}
static int smaller(int a, int b) { return a < b ? a : b; }
static void release_warps() {
  for (int w = 0; w < fiber_count; w += 32) {
    int end = smaller(w + 32, fiber_count);
    bool all = true;
    for (int i = w; i < end; ++i)
      all = all && (fibers[i].state == WARP_BARRIER || fibers[i].state == DONE);
    for (int i = w; all && i < end; ++i)
      if (fibers[i].state == WARP_BARRIER) fibers[i].state = READY;
  }
}
static void shuffle(int* order, uint32_t& seed) {
  for (int i = fiber_count - 1; i > 0; --i) {
    seed = seed * 1664525u + 1013904223u;
    int other = static_cast<int>((seed >> 8) % (i + 1)), kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
}
static void run_block(uint32_t& seed) {
  static int order[MOST];
  fiber_count = blockDim.x * blockDim.y * blockDim.z;
  for (int i = 0; i < fiber_count; ++i) {
    Fiber& f = fibers[i];
    order[i] = i;
    if (f.stack == nullptr) f.stack = static_cast<char*>(malloc(STACK));
    f.state = READY;
    f.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, fiber_main, 0);
  }
  while (true) {
    shuffle(order, seed);
    bool ran = false, left = false, at_barrier = true;
    for (int i = 0; i < fiber_count; ++i) {
      Fiber& f = fibers[order[i]];
      if (f.state == READY) {
        running = &f;
        threadIdx = f.index;
        swapcontext(&scheduler, &f.context);
        ran = true;
      }
    }
    for (int i = 0; i < fiber_count; ++i) {
      left = left || fibers[i].state != DONE;
      at_barrier = at_barrier && fibers[i].state == BLOCK_BARRIER;
    }
    if (!left) return;
    release_warps();
    if (at_barrier) {  // all of them: a thread that has left may not be waited for
      for (int i = 0; i < fiber_count; ++i) fibers[i].state = READY;
    } else if (!ran) {
      fprintf(stderr, "gpu emulator: not every thread of the block reaches the barrier\n");
      abort();
    }
  }
}
static Index3 index3(const unsigned* from) {
  return {static_cast<int>(from[0]), static_cast<int>(from[1]), static_cast<int>(from[2])};
}
static void launch(void (*body)(void**), void** arguments, const unsigned* extents) {
  uint32_t seed = 1234;
  kernel_body = body;
  kernel_arguments = arguments;
  const Index3 grid = gridDim = index3(extents);
  blockDim = index3(extents + 3);
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(seed);
}

// ---- warps --------------------------------------------------------------------------------------
static char exchanged[64][32][8];
template <typename T>
static T exchange(T value, int source) {
  int warp = linear_thread() / 32, lane = linear_thread() % 32;
  memcpy(exchanged[warp][lane], &value, sizeof(T));
  wait_for(WARP_BARRIER);
  T got = value;
  int size = smaller(32, fiber_count - warp * 32);
  if (source >= 0 && source < size) memcpy(&got, exchanged[warp][source], sizeof(T));
  wait_for(WARP_BARRIER);
  return got;
}
static unsigned __activemask() { return 0xffffffffu; }
// Lanes are exchanged within groups of `width`; where there is no lane, the own value comes back.
template <typename T>
static T __shfl_sync(unsigned, T value, int lane, int width = 32) {
  int own = linear_thread() % 32;
  return exchange(value, own / width * width + lane % width);
}
template <typename T>
static T __shfl_down_sync(unsigned, T value, unsigned delta, int width = 32) {
  int own = linear_thread() % 32, to = own + static_cast<int>(delta);
  return exchange(value, to / width == own / width ? to : own);
}

// ---- types and functions ------------------------------------------------------------------------
#define VECTORS(T, name)                                                          \
  struct name##2 { T x, y; };                                                     \
  struct alignas(4 * sizeof(T)) name##4 { T x, y, z, w; };                        \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }               \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTORS(int, int)
VECTORS(unsigned, uint)
VECTORS(float, float)
VECTORS(unsigned short, ushort)
VECTORS(signed char, char)
VECTORS(unsigned char, uchar)

template <typename T> static T max(T a, T b) { return a < b ? b : a; }
template <typename T> static T min(T a, T b) { return b < a ? b : a; }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i)
    c += static_cast<int>(static_cast<int8_t>(a >> 8 * i)) *
         static_cast<int>(static_cast<int8_t>(b >> 8 * i));
  return c;
}

struct nv_bfloat16 {
  uint16_t bits;
  nv_bfloat16() = default;
  nv_bfloat16(float value) {  // half to even
    uint32_t word;
    memcpy(&word, &value, 4);
    bits = isnan(value) ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16;
  }
  operator float() const {
    uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
  }
};
typedef nv_bfloat16 __nv_bfloat16;
VECTORS(nv_bfloat16, nv_bfloat16)
static inline nv_bfloat16 __float2bfloat16_rn(float x) { return nv_bfloat16(x); }
static inline float __bfloat162float(nv_bfloat16 x) { return x; }

// ---- tensor cores -------------------------------------------------------------------------------
namespace nvcuda {
namespace wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };
template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment { T value[16][16]; };
static bool first_lane() { return linear_thread() % 32 == 0; }
template <typename F, typename V>
static void fill_fragment(F& f, V value) {
  for (auto& row : f.value) for (auto& x : row) x = value;
}
// Both uses keep [rows or columns, depth]: what lies in memory in the layouts that are used here.
template <typename F, typename T>
static void load_matrix_sync(F& f, const T* p, unsigned stride) {
  if (reinterpret_cast<uintptr_t>(p) % 32 || stride * sizeof(T) % 16) {
    fprintf(stderr, "gpu emulator: a fragment is loaded from an unaligned address\n");
    abort();
  }
  if (!first_lane()) return;
  for (int i = 0; i < 16; ++i) for (int j = 0; j < 16; ++j) f.value[i][j] = p[i * stride + j];
}
template <typename T, typename A, typename B>
static void mma_sync(fragment<accumulator, 16, 16, 16, T>& d,
                     const fragment<matrix_a, 16, 16, 16, A, row_major>& a,
                     const fragment<matrix_b, 16, 16, 16, B, col_major>& b,
                     const fragment<accumulator, 16, 16, 16, T>& c) {
  if (!first_lane()) return;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) {
      T sum = c.value[i][j];
      for (int k = 0; k < 16; ++k)
        sum += static_cast<T>(a.value[i][k]) * static_cast<T>(b.value[j][k]);
      d.value[i][j] = sum;
    }
}
template <typename T>
static void store_matrix_sync(T* p, const fragment<accumulator, 16, 16, 16, T>& f, unsigned stride,
                              layout_t) {
  if (!first_lane()) return;
  for (int i = 0; i < 16; ++i) for (int j = 0; j < 16; ++j) p[i * stride + j] = f.value[i][j];
}
}  // namespace wmma
}  // namespace nvcuda

// ---- what the emulated driver finds of a kernel ------------------------------------------------
struct Kernel {
  void (*launch)(void** arguments, const unsigned* extents);
  int threads;  // __launch_bounds__, 0 without
  int arguments;
};
