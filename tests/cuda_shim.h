/* What device.cu needs of CUDA, on a processor: the threads of a block are contexts that take turns, and every barrier or shuffle passes
   the turn on. Blocks run one after the other. Arguments are checked against the kernel's own by their size. */
#include <cmath>
#include <csetjmp>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

struct place { unsigned x, y; };
static place threadIdx, blockIdx, gridDim;
static ucontext_t scheduler, starts[THREADS];
static jmp_buf back, turns[THREADS];
static void (*body)();
static bool done[THREADS];

#define __global__
#define __device__ static inline
#define __shared__ static

static void __syncthreads()
{
    if (!_setjmp(turns[threadIdx.x])) _longjmp(back, 1);
}

template <class T> static T __shfl_down_sync(unsigned, T x, int step)
{
    static T lanes[THREADS];
    lanes[threadIdx.x] = x;
    __syncthreads();
    T got = (int)(threadIdx.x % 32) + step < 32 ? lanes[threadIdx.x + step] : x;
    __syncthreads();
    return got;
}

static unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
static int __dp4a(int a, int b, int sum)
{
    for (int i = 0; i < 32; i += 8) sum += (signed char)(a >> i & 255) * (signed char)(b >> i & 255);
    return sum;
}

static void begin()
{
    body();
    done[threadIdx.x] = true;
    _longjmp(back, 1);
}

/* one thread until it ends or waits; contexts start it, jumps go back and forth, which ask the kernel for nothing */
static void turn(bool started)
{
    if (_setjmp(back)) return;
    if (started) _longjmp(turns[threadIdx.x], 1);
    swapcontext(&scheduler, &starts[threadIdx.x]);
}

static void every_block(unsigned columns, unsigned rows)
{
    static std::vector<char> stacks(THREADS * 65536);
    gridDim = {columns, rows};
    for (blockIdx.y = 0; blockIdx.y < rows; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < columns; blockIdx.x++) {
            for (unsigned t = 0; t < THREADS; t++) {
                getcontext(&starts[t]);
                starts[t].uc_stack.ss_sp = &stacks[t * 65536];
                starts[t].uc_stack.ss_size = 65536;
                makecontext(&starts[t], begin, 0);
                done[t] = false;
            }
            unsigned left = THREADS;
            for (bool started = false; left; started = true)
                for (unsigned t = 0; t < THREADS; t++)
                    if (!done[t]) {
                        threadIdx.x = t;
                        turn(started);
                        left -= done[t];
                    }
        }
}

template <class... P, size_t... I> static int unpacked(void (*kernel)(P...), unsigned columns, unsigned rows, void **args, const int *sizes, std::index_sequence<I...>)
{
    static void (*held)(P...);
    static void **at;
    held = kernel, at = args;
    if ((... || (sizeof(P) != (size_t)sizes[I]))) return -1;
    body = [] { held(*(P *)at[I]...); };
    every_block(columns, rows);
    return 0;
}

template <class... P> static int run(void (*kernel)(P...), unsigned columns, unsigned rows, void **args, const int *sizes, int count)
{
    return count == sizeof...(P) ? unpacked(kernel, columns, rows, args, sizes, std::index_sequence_for<P...>()) : -2;
}
