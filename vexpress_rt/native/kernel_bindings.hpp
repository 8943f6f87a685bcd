// The Python bindings of the kernels, the same for the GPU and the CPU: addresses and streams are integers.
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

using SlotUpdates =
    nanobind::ndarray<const std::int32_t, nanobind::shape<-1, 3>, nanobind::c_contig, nanobind::device::cpu>;
using Table = nanobind::ndarray<const float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using Weights = nanobind::ndarray<const float, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// Runs a window's step. The table of coefficients has the shape (state_size, state_size + 1).
template <std::uint32_t state_size, typename Run>
void run_guided_step(GuidedStep<state_size> step, const SlotUpdates& updates, const Table& table, Run run,
                     Address stream) {
    for (std::uint32_t row = 0; row < state_size; ++row) {
        std::copy_n(table.data() + row * (state_size + 1), state_size + 1, step.coefficients[row]);
    }
    const std::int32_t* update = updates.data();
    const nanobind::gil_scoped_release others_may_run;
    for (std::size_t left = updates.shape(0); left > 0;) {
        const auto frames = static_cast<std::uint32_t>(std::min<std::size_t>(left, step.frames_at_once));
        for (std::uint32_t row = 0; row < frames; ++row, update += 3) {
            step.updates[row] = {update[0], update[1], update[2]};
        }
        run(step, step.values, frames, stream);
        const std::size_t done = static_cast<std::size_t>(frames) * step.values;
        if (step.predictions.unconditional != nullptr) step.predictions.unconditional += done;
        step.predictions.conditional += done;
        left -= frames;
    }
}

// Corrects a window's predictions, with one weight for each of its frames.
template <typename Run>
void run_correction(CorrectPredictions correction, const Weights& weights, Run run, Address stream) {
    const nanobind::gil_scoped_release others_may_run;
    for (std::size_t left = weights.shape(0); left > 0;) {
        const auto frames = static_cast<std::uint32_t>(std::min<std::size_t>(left, correction.frames_at_once));
        std::copy_n(weights.data() + correction.first, frames, correction.weights);
        run(correction, correction.values, frames, stream);
        correction.first += frames;
        left -= frames;
    }
}

// Adds the functions to `m`. run(body, columns, rows, stream) calls body(column, row) for every column and row, or
// enqueues these calls. Arguments are checked in `device_kernels.py`; addresses cannot be checked here.
template <typename Run>
void define_kernels(nanobind::module_& m, Run run) {
    namespace nb = nanobind;

    m.def(
        "guided_step",
        [run](Address state, Address totals, Address unconditional, Address conditional, std::uint32_t values,
              std::uint32_t slots, const SlotUpdates& updates, float scale, const Table& table, Address stream) {
            const auto start = [&](auto step) {
                step.state = at<float>(state);
                step.totals = at<float>(totals);
                step.predictions = {at<const float>(unconditional), at<const float>(conditional), scale};
                step.values = values;
                step.slots = slots;
                run_guided_step(step, updates, table, run, stream);
            };
            if (table.shape(0) == 1) start(GuidedStep<1>{});
            if (table.shape(0) == 2) start(GuidedStep<2>{});
            if (table.shape(0) == 3) start(GuidedStep<3>{});
        },
        nb::arg("state"), nb::arg("totals"), nb::arg("unconditional"), nb::arg("conditional"), nb::arg("values"),
        nb::arg("slots"), nb::arg("updates"), nb::arg("scale"), nb::arg("table"), nb::arg("stream"),
        "Adds a window's predictions; updates: (F, 3) int32 of slot, accumulated, coverage; unconditional 0: no "
        "guidance.");

    m.def(
        "correct_predictions",
        [run](Address unconditional, Address conditional, Address expected, Address out, std::uint32_t values,
              std::uint32_t frame, const Weights& weights, float scale, Address stream) {
            CorrectPredictions correction{};
            correction.predictions = {at<const float>(unconditional), at<const float>(conditional), scale};
            correction.expected = at<const float>(expected);
            correction.out = at<float>(out);
            correction.values = values;
            correction.frame = frame;
            run_correction(correction, weights, run, stream);
        },
        nb::arg("unconditional"), nb::arg("conditional"), nb::arg("expected"), nb::arg("out"), nb::arg("values"),
        nb::arg("frame"), nb::arg("weights"), nb::arg("scale"), nb::arg("stream"),
        "Writes guided predictions less the weighted error of one frame's; unconditional 0: no guidance.");

    m.def(
        "weighted_sum",
        [run](Address first, Address second, Address out, std::uint32_t rows, std::uint32_t values, float first_weight,
              float second_weight, std::uint32_t dtype, Address stream) {
            const nb::gil_scoped_release others_may_run;
            const auto start = [&](auto number) {
                using Stored = typename decltype(number)::Stored;
                const WeightedSum<decltype(number)> sum{at<const Stored>(first), at<const Stored>(second),
                                                        at<Stored>(out), values, first_weight, second_weight};
                run(sum, values, rows, stream);
            };
            if (dtype == 0) start(Float32{});
            if (dtype == 1) start(Float16{});
            if (dtype == 2) start(Bfloat16{});
        },
        nb::arg("first"), nb::arg("second"), nb::arg("out"), nb::arg("rows"), nb::arg("values"),
        nb::arg("first_weight"), nb::arg("second_weight"), nb::arg("dtype"), nb::arg("stream"),
        "Writes the weighted sum of features; second 0: one feature; dtype: 0 float32, 1 float16, 2 bfloat16.");

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
