// The median of 27 values by networks of min and max: no branch depends on a value, as vector units and GPUs need.
#pragma once

#include <cstdint>

#include "host_device.hpp"

namespace vexpress {

constexpr int taps = 3;             // along each axis
constexpr int ranks = taps * taps;  // of a column: its values over time and rows, sorted

namespace network {

using Byte = std::uint8_t;

VEXPRESS_HOST_DEVICE Byte low(Byte a, Byte b) { return a < b ? a : b; }
VEXPRESS_HOST_DEVICE Byte high(Byte a, Byte b) { return a < b ? b : a; }

VEXPRESS_HOST_DEVICE void sort(Byte& a, Byte& b) {
    const Byte smaller = low(a, b);
    b = high(a, b);
    a = smaller;
}

VEXPRESS_HOST_DEVICE void sort(Byte& a, Byte& b, Byte& c) {
    sort(a, b);
    sort(b, c);
    sort(a, b);
}

VEXPRESS_HOST_DEVICE Byte middle(Byte a, Byte b, Byte c) { return high(low(a, b), low(high(a, b), c)); }
VEXPRESS_HOST_DEVICE Byte lowest(Byte a, Byte b, Byte c) { return low(low(a, b), c); }
VEXPRESS_HOST_DEVICE Byte highest(Byte a, Byte b, Byte c) { return high(high(a, b), c); }

// Sorts nine values with 16 comparators; v[0..2], v[3..5] and v[6..8] must be sorted already.
VEXPRESS_HOST_DEVICE void sort_triples(Byte (&v)[ranks]) {
    sort(v[0], v[3], v[6]);
    sort(v[1], v[4], v[7]);
    sort(v[2], v[5], v[8]);
    sort(v[1], v[3]);  // from here on, the shortest network for a 3x3 table sorted both ways
    sort(v[2], v[4]);
    sort(v[2], v[6]);
    sort(v[2], v[3]);
    sort(v[4], v[6]);
    sort(v[5], v[7]);
    sort(v[5], v[6]);
}

// Median of 13 values in three sorted lists.
VEXPRESS_HOST_DEVICE Byte median_of_13(Byte a0, Byte a1, Byte a2, Byte a3, const Byte (&b)[5], Byte c0, Byte c1, Byte c2,
                                       Byte c3) {
    c0 = high(a0, c0);  // Batcher's merge of a and c, without the ends, which are never the median
    sort(a1, c1);
    sort(a2, c2);
    a3 = low(a3, c3);
    sort(a2, c0);
    sort(a3, c1);
    sort(a1, a2);
    sort(a3, c0);
    sort(c1, c2);  // merged, second to seventh: a1 a2 a3 c0 c1 c2
    // The seventh of all: the minimum, over all splits into i of the merged and 7 - i of b, of the split's maximum.
    Byte result = low(c2, high(c1, b[0]));
    result = low(result, high(c0, b[1]));
    result = low(result, high(a3, b[2]));
    result = low(result, high(a2, b[3]));
    return low(result, high(a1, b[4]));
}

// Median of three columns of nine values, each column sorted.
//
// Sort the three values of each rank r = 0..8 into places p = 0..2. Then at least (r + 1)(p + 1) of the 27 values are
// no greater than the value at (r, p), and at least (9 - r)(3 - p) are no smaller. If a count exceeds 14, the value
// is not needed for the median. This drops 7 values at each end; the median of the other 13 is the median of all.
VEXPRESS_HOST_DEVICE Byte median_of_columns(const Byte (&l)[ranks], const Byte (&m)[ranks], const Byte (&r)[ranks]) {
    const Byte middles[5] = {middle(l[2], m[2], r[2]), middle(l[3], m[3], r[3]), middle(l[4], m[4], r[4]),
                             middle(l[5], m[5], r[5]), middle(l[6], m[6], r[6])};
    return median_of_13(lowest(l[5], m[5], r[5]), lowest(l[6], m[6], r[6]), lowest(l[7], m[7], r[7]),
                        lowest(l[8], m[8], r[8]), middles, highest(l[0], m[0], r[0]), highest(l[1], m[1], r[1]),
                        highest(l[2], m[2], r[2]), highest(l[3], m[3], r[3]));
}

}  // namespace network
}  // namespace vexpress
