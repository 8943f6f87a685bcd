// Launches the kernels, without Python. Nothing here waits for the GPU.
#pragma once

#include <cstdint>

#include "../kernels.hpp"

namespace vexpress::cuda {

// Enqueues body(column, row) for every column and row on `stream` (a cudaStream_t) of the current device. Throws
// std::runtime_error with CUDA's name and description of the error when the launch fails.
void launch(const GuidedStep<1>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const GuidedStep<2>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const GuidedStep<3>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const CorrectPredictions& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const WeightedSum<Float32>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const WeightedSum<Float16>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const WeightedSum<Bfloat16>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const Median& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);
void launch(const Nv12& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream);

}  // namespace vexpress::cuda
