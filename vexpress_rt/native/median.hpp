// The 3x3x3 median of RGB frames, without Python.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vexpress {

// Writes the median over time, rows and columns of the middle one of three frames; colours are filtered separately.
//
// Frames are height x width x 3 bytes without gaps; `out` must not overlap any of the others. Beyond a border the
// picture is mirrored without repeating its edge; an axis of size 1 mirrors into itself.
// `threads` bands of rows are filtered at once, fewer if the picture is small; 0 means one for each core.
void median_3x3x3(const std::uint8_t* previous, const std::uint8_t* current, const std::uint8_t* following,
                  std::uint8_t* out, std::size_t height, std::size_t width, unsigned threads);

}  // namespace vexpress
