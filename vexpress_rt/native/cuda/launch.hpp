// Starts the kernels, free of Python. Nothing here waits for the GPU.
#pragma once

#include <cstdint>

#include "../kernels.hpp"

namespace vexpress::cuda {

// Calls body(column, row) on the current device for every column and row, after what `stream` (a cudaStream_t) has
// before it. Throws std::runtime_error with CUDA's name and words for the error when the launch fails.
void launch(const GuidedStep<1>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const GuidedStep<2>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const GuidedStep<3>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const Median& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const Nv12& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);

}  // namespace vexpress::cuda
