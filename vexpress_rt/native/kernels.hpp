// The arithmetic of the CUDA kernels: one structure for each, called once for every column and row of its grid.
//
// The same structures run on the GPU (cuda/kernels.cu) and, for tests, on the CPU (module.cpp). Float arithmetic is
// that of NumPy, operation by operation: compile without fused multiply-add.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "host_device.hpp"
#include "median_network.hpp"

namespace vexpress {

// The update of one frame's slot by one window's prediction; see `latent_step.py`.
struct SlotUpdate {
    std::int32_t slot;
    std::int32_t accumulated;
    std::int32_t coverage;
};

// A window's predictions under classifier-free guidance.
struct Predictions {
    const float* unconditional;  // frames x values; null: no guidance
    const float* conditional;    // frames x values
    float scale;

    VEXPRESS_HOST_DEVICE float guided(std::size_t at) const {
        const float c = conditional[at];
        if (unconditional == nullptr) return c;
        const float u = unconditional[at];
        return u + scale * (c - u);
    }
};

// A window's guided sampler step. Columns are the `values` of a frame's latent; rows are frames of the window, at most
// `frames_at_once` in a launch. `state_size`: elements of a frame's state, its latent and the arrays that a multistep
// sampler keeps beside it; see `samplers.py`.
template <std::uint32_t state_size>
struct GuidedStep {
    // The updates are passed by value with the launch, so that no memory must outlive the call.
    static constexpr std::uint32_t frames_at_once = 64;

    float* state;   // state_size x slots x values; the latents first
    float* totals;  // slots x values
    Predictions predictions;
    std::uint32_t values;
    std::uint32_t slots;
    float coefficients[state_size][state_size + 1];
    SlotUpdate updates[frames_at_once];

    // Sums are added from left to right. An element beside the latent is read only if its coefficient is not 0,
    // because before the second step it may be uninitialised.
    VEXPRESS_HOST_DEVICE void take_step(std::size_t at, float prediction) const {
        const std::size_t stride = static_cast<std::size_t>(slots) * values;
        float before[state_size];
        for (std::uint32_t i = 0; i < state_size; ++i) before[i] = state[i * stride + at];
        for (std::uint32_t row = 0; row < state_size; ++row) {
            float sum = coefficients[row][0] * before[0];
            for (std::uint32_t i = 1; i < state_size; ++i) {
                if (coefficients[row][i] != 0) sum = sum + coefficients[row][i] * before[i];
            }
            state[row * stride + at] = sum + coefficients[row][state_size] * prediction;
        }
    }

    VEXPRESS_HOST_DEVICE void operator()(std::uint32_t column, std::uint32_t row) const {
        const SlotUpdate update = updates[row];
        const std::size_t at = static_cast<std::size_t>(update.slot) * values + column;
        const float guided = predictions.guided(static_cast<std::size_t>(row) * values + column);
        const float part = guided / static_cast<float>(update.coverage);
        const float total = update.accumulated == 0 ? part : totals[at] + part;
        if (update.accumulated + 1 == update.coverage) {
            take_step(at, total);
        } else {
            totals[at] = total;
        }
    }
};

// Guided predictions, less the weighted error in one frame whose true prediction is known; see `latent_step.py`.
// Columns are the `values` of a frame's latent; rows are frames of the window from `first` on, at most `frames_at_once`
// in a launch.
struct CorrectPredictions {
    static constexpr std::uint32_t frames_at_once = 64;

    Predictions predictions;
    const float* expected;  // values: the true prediction of `frame`
    float* out;             // frames x values
    std::uint32_t values;
    std::uint32_t frame;
    std::uint32_t first;
    float weights[frames_at_once];

    VEXPRESS_HOST_DEVICE void operator()(std::uint32_t column, std::uint32_t row) const {
        const std::size_t at = (static_cast<std::size_t>(first) + row) * values + column;
        const float error = predictions.guided(static_cast<std::size_t>(frame) * values + column) - expected[column];
        out[at] = predictions.guided(at) - weights[row] * error;
    }
};

VEXPRESS_HOST_DEVICE std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

VEXPRESS_HOST_DEVICE float float_of(std::uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// The dtypes of features: how an element is stored, and its value. Values are rounded to the nearest, ties to even.
struct Float32 {
    using Stored = float;

    static VEXPRESS_HOST_DEVICE float load(float stored) { return stored; }
    static VEXPRESS_HOST_DEVICE float store(float value) { return value; }
};

struct Float16 {
    using Stored = std::uint16_t;

    static VEXPRESS_HOST_DEVICE float load(std::uint16_t stored) {
        const std::uint32_t sign = (stored & 0x8000u) << 16, fraction = (stored & 0x7fffu) << 13;
        if ((stored & 0x7c00u) == 0x7c00u) return float_of(sign | 0x7f800000u | (fraction & 0x007fffffu));
        // The exponents' biases differ by 112. The multiplication is right for subnormal numbers, too.
        return float_of(sign | bits_of(float_of(fraction) * 5.192296858534828e33f));  // 2**112
    }

    static VEXPRESS_HOST_DEVICE std::uint16_t store(float value) {
        const std::uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
        std::uint32_t stored;
        if (size > 0x7f800000u) {
            stored = 0x7e00u;  // NaN
        } else if (size >= 0x47800000u) {
            stored = 0x7c00u;  // 65536 and more: infinity
        } else if (size < 0x38800000u) {
            // Below 2**-14 a float16 is a multiple of 2**-24. So is a float32 between 0.5 and 1: the sum rounds to one.
            stored = bits_of(float_of(size) + 0.5f) - 0x3f000000u;
        } else {
            stored = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
        }
        return static_cast<std::uint16_t>(sign | stored);
    }
};

struct Bfloat16 {
    using Stored = std::uint16_t;

    static VEXPRESS_HOST_DEVICE float load(std::uint16_t stored) {
        return float_of(static_cast<std::uint32_t>(stored) << 16);
    }

    static VEXPRESS_HOST_DEVICE std::uint16_t store(float value) {
        const std::uint32_t bits = bits_of(value);
        if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);  // NaN
        return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
};

// The weighted sum of one or two features; see `weighted_sum.py`. Columns are the `values` of a frame; rows are frames.
template <typename Number>
struct WeightedSum {
    const typename Number::Stored* first;   // frames x values
    const typename Number::Stored* second;  // frames x values; null: one feature
    typename Number::Stored* out;           // frames x values
    std::uint32_t values;
    float first_weight;
    float second_weight;

    VEXPRESS_HOST_DEVICE void operator()(std::uint32_t column, std::uint32_t row) const {
        const std::size_t at = static_cast<std::size_t>(row) * values + column;
        float sum = first_weight * Number::load(first[at]);
        if (second != nullptr) sum = sum + second_weight * Number::load(second[at]);
        out[at] = Number::store(sum);
    }
};

// The 3x3x3 median. Columns are the bytes of a row of the picture, rows its rows.
struct Median {
    const std::uint8_t* previous;  // height x width x 3, like the others
    const std::uint8_t* current;
    const std::uint8_t* following;
    std::uint8_t* out;
    std::uint32_t height;
    std::uint32_t width;

    // Beyond a border the picture is mirrored without repeating its edge; an axis of size 1 is its own mirror image.
    static VEXPRESS_HOST_DEVICE std::uint32_t before(std::uint32_t i, std::uint32_t size) {
        return i > 0 ? i - 1 : size > 1 ? 1 : 0;
    }

    static VEXPRESS_HOST_DEVICE std::uint32_t after(std::uint32_t i, std::uint32_t size) {
        return i + 1 < size ? i + 1 : size > 1 ? size - 2 : 0;
    }

    VEXPRESS_HOST_DEVICE void sort_over_time(std::size_t at, std::uint8_t* sorted) const {
        sorted[0] = previous[at];
        sorted[1] = current[at];
        sorted[2] = following[at];
        network::sort(sorted[0], sorted[1], sorted[2]);
    }

    VEXPRESS_HOST_DEVICE void operator()(std::uint32_t column, std::uint32_t row) const {
        const std::size_t line = static_cast<std::size_t>(width) * 3;
        const std::uint32_t pixel = column / 3, channel = column % 3;
        const std::size_t above = before(row, height) * line, here = row * line, below = after(row, height) * line;
        const auto sort_column = [&](std::uint32_t x, std::uint8_t(&v)[ranks]) {
            const std::size_t offset = static_cast<std::size_t>(x) * 3 + channel;
            sort_over_time(above + offset, v);
            sort_over_time(here + offset, v + taps);
            sort_over_time(below + offset, v + 2 * taps);
            network::sort_triples(v);
        };
        std::uint8_t left[ranks], mid[ranks], right[ranks];
        sort_column(before(pixel, width), left);
        sort_column(pixel, mid);
        sort_column(after(pixel, width), right);
        out[here + column] = network::median_of_columns(left, mid, right);
    }
};

// RGB -> NV12; see `nv12.py`. Columns and rows are of the chroma plane, half the picture's.
//
// BT.709 has exact decimal coefficients, so every value is a fraction of integers, rounded once. Chroma is computed
// from a sum of pixels with weights that add up to 8; its fractions include the division by 8.
struct Nv12 {
    const std::uint8_t* frame;  // height x width x 3
    std::uint8_t* out;          // height x width of luma, then height / 2 x width of chroma, blue and red interleaved
    std::uint32_t height;
    std::uint32_t width;

    // Nearest integer to numerator / denominator, halves upwards; the numerator is not negative.
    static VEXPRESS_HOST_DEVICE std::uint8_t rounded(std::int32_t numerator, std::int32_t denominator) {
        return static_cast<std::uint8_t>((2 * numerator + denominator) / (2 * denominator));
    }

    // 16 + 219 (0.2126 R + 0.7152 G + 0.0722 B) / 255
    static VEXPRESS_HOST_DEVICE std::uint8_t luma(std::int32_t red, std::int32_t green, std::int32_t blue) {
        constexpr std::int32_t denominator = 425000;
        return rounded(16 * denominator + 73 * (1063 * red + 3576 * green + 361 * blue), denominator);
    }

    // 128 + 224 (B - luma) / 1.8556 / 255, of eightfold sums
    static VEXPRESS_HOST_DEVICE std::uint8_t chroma_blue(std::int32_t red, std::int32_t green, std::int32_t blue) {
        constexpr std::int32_t denominator = 4639 * 255;
        return rounded(128 * denominator + 14 * (4639 * blue - 1063 * red - 3576 * green), denominator);
    }

    // 128 + 224 (R - luma) / 1.5748 / 255, of eightfold sums
    static VEXPRESS_HOST_DEVICE std::uint8_t chroma_red(std::int32_t red, std::int32_t green, std::int32_t blue) {
        constexpr std::int32_t denominator = 3937 * 255;
        return rounded(128 * denominator + 14 * (3937 * red - 3576 * green - 361 * blue), denominator);
    }

    VEXPRESS_HOST_DEVICE void operator()(std::uint32_t column, std::uint32_t row) const {
        const std::size_t x = 2 * static_cast<std::size_t>(column), left = x > 0 ? x - 1 : 0;
        std::int32_t sum[3] = {0, 0, 0};
        for (std::size_t y = 2 * static_cast<std::size_t>(row); y < 2 * static_cast<std::size_t>(row) + 2; ++y) {
            const std::uint8_t* const line = frame + y * width * 3;
            const std::uint8_t *const p = line + 3 * left, *const q = line + 3 * x, *const r = q + 3;
            out[y * width + x] = luma(q[0], q[1], q[2]);
            out[y * width + x + 1] = luma(r[0], r[1], r[2]);
            for (int channel = 0; channel < 3; ++channel) sum[channel] += p[channel] + 2 * q[channel] + r[channel];
        }
        std::uint8_t* const chroma = out + (static_cast<std::size_t>(height) + row) * width + x;
        chroma[0] = chroma_blue(sum[0], sum[1], sum[2]);
        chroma[1] = chroma_red(sum[0], sum[1], sum[2]);
    }
};

}  // namespace vexpress
