// The Python face of the kernels, the same for the GPU and for the CPU: addresses and a stream as integers.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels.hpp"

namespace vexpress {

using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

using Shares = nanobind::ndarray<const std::int32_t, nanobind::shape<-1, 3>, nanobind::c_contig, nanobind::device::cpu>;
using Table = nanobind::ndarray<const float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;

// A window's step of frames that have as many vectors as the table has rows; its shape is (held, held + 1).
template <std::uint32_t held, typename Run>
void run_guided_step(GuidedStep<held> step, const Shares& shares, const Table& table, Run run, Address stream) {
    for (std::uint32_t row = 0; row < held; ++row) {
        std::copy_n(table.data() + row * (held + 1), held + 1, step.coefficients[row]);
    }
    const std::int32_t* share = shares.data();
    const nanobind::gil_scoped_release others_may_run;
    for (std::size_t left = shares.shape(0); left > 0;) {
        const auto frames = static_cast<std::uint32_t>(std::min<std::size_t>(left, step.frames_at_once));
        for (std::uint32_t row = 0; row < frames; ++row, share += 3) step.shares[row] = {share[0], share[1], share[2]};
        run(step, step.values, frames, stream);
        const std::size_t done = static_cast<std::size_t>(frames) * step.values;
        if (step.unconditional != nullptr) step.unconditional += done;
        step.conditional += done;
        left -= frames;
    }
}

// Adds the functions to `m`. run(body, columns, rows, stream) calls body(column, row) for each, or has it called.
// Nothing is checked here: addresses cannot be. `device_kernels.py` checks what can.
template <typename Run>
void define_kernels(nanobind::module_& m, Run run) {
    namespace nb = nanobind;

    m.def(
        "guided_step",
        [run](Address vectors, Address totals, Address unconditional, Address conditional, std::uint32_t values,
              std::uint32_t slots, const Shares& shares, float scale, const Table& table, Address stream) {
            const auto start = [&](auto step) {
                step.vectors = at<float>(vectors);
                step.totals = at<float>(totals);
                step.unconditional = at<const float>(unconditional);
                step.conditional = at<const float>(conditional);
                step.values = values;
                step.slots = slots;
                step.scale = scale;
                run_guided_step(step, shares, table, run, stream);
            };
            if (table.shape(0) == 1) start(GuidedStep<1>{});
            if (table.shape(0) == 2) start(GuidedStep<2>{});
            if (table.shape(0) == 3) start(GuidedStep<3>{});
        },
        nb::arg("vectors"), nb::arg("totals"), nb::arg("unconditional"), nb::arg("conditional"), nb::arg("values"),
        nb::arg("slots"), nb::arg("shares"), nb::arg("scale"), nb::arg("table"), nb::arg("stream"),
        "Adds a window's predictions; shares: (F, 3) int32 of slot, heard, coverage; unconditional 0: no guidance.");

    m.def(
        "median_3x3x3",
        [run](Address previous, Address current, Address following, Address out, std::uint32_t height,
              std::uint32_t width, Address stream) {
            const Median median{at<const std::uint8_t>(previous), at<const std::uint8_t>(current),
                                at<const std::uint8_t>(following), at<std::uint8_t>(out), height, width};
            const nb::gil_scoped_release others_may_run;
            run(median, 3 * width, height, stream);
        },
        nb::arg("previous"), nb::arg("current"), nb::arg("following"), nb::arg("out"), nb::arg("height"),
        nb::arg("width"), nb::arg("stream"), "Writes the median of three frames, (H, W, 3) uint8, into out.");

    m.def(
        "rgb_to_nv12",
        [run](Address frame, Address out, std::uint32_t height, std::uint32_t width, Address stream) {
            const Nv12 conversion{at<const std::uint8_t>(frame), at<std::uint8_t>(out), height, width};
            const nb::gil_scoped_release others_may_run;
            run(conversion, width / 2, height / 2, stream);
        },
        nb::arg("frame"), nb::arg("out"), nb::arg("height"), nb::arg("width"), nb::arg("stream"),
        "Writes (H, W, 3) uint8 RGB into out as NV12, (H * 3 / 2, W) uint8.");
}

}  // namespace vexpress
