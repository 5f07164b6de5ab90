/* BODY compiled once per instruction set: LANES floats to a vector, ISA_LEVEL 0 for plain C, 1 for AVX2, 2 for AVX-512. */
#include "_isa.h"

#define LANES 4
#define ISA_LEVEL 0
#define ISA(name) name##_base
#include BODY
#undef ISA
#undef ISA_LEVEL
#undef LANES

#if defined(__x86_64__) && defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,popcnt")
#define LANES 8
#define ISA_LEVEL 1
#define ISA(name) name##_avx2
#include BODY
#undef ISA
#undef ISA_LEVEL
#undef LANES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,popcnt,prefer-vector-width=512")
#define LANES 16
#define ISA_LEVEL 2
#define ISA(name) name##_avx512
#include BODY
#undef ISA
#undef ISA_LEVEL
#undef LANES
#pragma GCC pop_options
#endif
#undef BODY
