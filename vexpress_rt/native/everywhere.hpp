// For functions that are compiled for the CPU and, where a CUDA compiler reads them, for the GPU too.
#pragma once

#if defined(__CUDACC__)
#define VEXPRESS_EVERYWHERE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define VEXPRESS_EVERYWHERE inline __attribute__((always_inline))
#else
#define VEXPRESS_EVERYWHERE inline
#endif
