// The Python bindings of this folder's C++.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>

#include "kernel_bindings.hpp"
#include "median.hpp"

namespace nb = nanobind;

namespace {

using Frame = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using OutputFrame = nb::ndarray<std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;

// `median.py` checks its arguments with better messages. These checks guard memory against direct calls.
template <typename Other>
bool same_size(const Frame& frame, const Other& other) {
    return frame.shape(0) == other.shape(0) && frame.shape(1) == other.shape(1);
}

void median_3x3x3(const Frame& previous, const Frame& current, const Frame& following, const OutputFrame& out,
                  unsigned threads) {
    if (!same_size(current, previous) || !same_size(current, following) || !same_size(current, out)) {
        throw std::invalid_argument("frames of different sizes");
    }
    if (current.size() == 0) return;
    const nb::gil_scoped_release others_may_run;
    vexpress::median_3x3x3(previous.data(), current.data(), following.data(), out.data(), current.shape(0),
                           current.shape(1), threads);
}

// Makes the calls of a launch on a GPU one after the other; there is no stream.
template <typename Body>
void run_here(const Body& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t) {
    for (std::uint32_t row = 0; row < rows; ++row) {
        for (std::uint32_t column = 0; column < columns; ++column) body(column, row);
    }
}

}  // namespace

NB_MODULE(_native, m) {
    m.def("median_3x3x3", &median_3x3x3, nb::arg("previous").noconvert(), nb::arg("current").noconvert(),
          nb::arg("following").noconvert(), nb::arg("out").noconvert(), nb::arg("threads"),
          "Writes the median into out, (H, W, 3) uint8; threads = 0 takes one for each core.");

    nb::module_ kernels = m.def_submodule("kernels", "The arithmetic of the CUDA kernels, on the CPU, for tests.");
    vexpress::define_kernels(kernels, [](const auto& body, auto... rest) { run_here(body, rest...); });
}
