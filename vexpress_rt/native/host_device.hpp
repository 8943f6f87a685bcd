// Marks functions that are compiled for the CPU and, by a CUDA compiler, for the GPU too.
#pragma once

#if defined(__CUDACC__)
#define VEXPRESS_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define VEXPRESS_HOST_DEVICE inline __attribute__((always_inline))
#else
#define VEXPRESS_HOST_DEVICE inline
#endif
