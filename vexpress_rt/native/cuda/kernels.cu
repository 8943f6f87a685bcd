#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "launch.hpp"

namespace vexpress::cuda {

namespace {

constexpr unsigned threads = 256;
constexpr unsigned most_rows = 65535;  // CUDA's limit of gridDim.y; over_grid loops over the rows beyond

template <typename Body>
__global__ void __launch_bounds__(threads)
    over_grid(const __grid_constant__ Body body, std::uint32_t columns, std::uint32_t rows) {
    for (std::uint32_t row = blockIdx.y; row < rows; row += gridDim.y) {
        for (std::uint32_t column = blockIdx.x * threads + threadIdx.x; column < columns;
             column += gridDim.x * threads) {
            body(column, row);
        }
    }
}

template <typename Body>
void launch_over_grid(const Body& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(columns / threads + (columns % threads > 0), std::min(rows, most_rows));
    config.blockDim = dim3(threads);
    config.stream = reinterpret_cast<cudaStream_t>(stream);
    const cudaError_t error = cudaLaunchKernelEx(&config, over_grid<Body>, body, columns, rows);
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error));
    }
}

}  // namespace

void launch(const GuidedStep<1>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    launch_over_grid(body, columns, rows, stream);
}

void launch(const GuidedStep<2>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    launch_over_grid(body, columns, rows, stream);
}

void launch(const GuidedStep<3>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    launch_over_grid(body, columns, rows, stream);
}

void launch(const CorrectPredictions& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    launch_over_grid(body, columns, rows, stream);
}

void launch(const WeightedSum<Float32>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    launch_over_grid(body, columns, rows, stream);
}

void launch(const WeightedSum<Float16>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    launch_over_grid(body, columns, rows, stream);
}

void launch(const WeightedSum<Bfloat16>& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    launch_over_grid(body, columns, rows, stream);
}

void launch(const Median& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    launch_over_grid(body, columns, rows, stream);
}

void launch(const Nv12& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
    launch_over_grid(body, columns, rows, stream);
}

}  // namespace vexpress::cuda
