// The median of 27 by networks of min and max, which compilers turn into vector instructions: no branch depends on
// a pixel. Neighbours share work: the three values of a pixel over time are sorted once and used for three rows, and
// the nine values of a column are sorted once and used for three columns.

#include "median.hpp"

#include <algorithm>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "median_network.hpp"

// The iterations of the inner loops access different bytes, which the compiler cannot tell from the pointers.
#if defined(__clang__)
#define INDEPENDENT_PASSES _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define INDEPENDENT_PASSES _Pragma("GCC ivdep")
#else
#define INDEPENDENT_PASSES
#endif

// x86-64 guarantees only 16-byte vectors. If the loader can choose at start, code for 32-byte vectors is compiled too.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define WIDEST_VECTORS __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef WIDEST_VECTORS
#define WIDEST_VECTORS
#endif

namespace vexpress {

namespace {

using Byte = std::uint8_t;
using std::size_t;

constexpr size_t channels = 3;
constexpr size_t smallest_band = 1 << 16;  // bytes; a smaller band is not worth a thread

// Sorts three values over time at every byte of a row.
WIDEST_VECTORS void sort_over_time(const Byte* previous, const Byte* current, const Byte* following, Byte* sorted,
                                   size_t bytes) {
    INDEPENDENT_PASSES
    for (size_t i = 0; i < bytes; ++i) {
        Byte a = previous[i], b = current[i], c = following[i];
        network::sort(a, b, c);
        sorted[i] = a;
        sorted[bytes + i] = b;
        sorted[2 * bytes + i] = c;
    }
}

// Sorts the nine values of every column of three rows that are sorted over time. columns: ranks x stride bytes.
WIDEST_VECTORS void sort_columns(const Byte* above, const Byte* here, const Byte* below, Byte* columns, size_t bytes,
                                 size_t stride) {
    INDEPENDENT_PASSES
    for (size_t i = 0; i < bytes; ++i) {
        Byte v[ranks] = {above[i], above[bytes + i], above[2 * bytes + i], here[i],  here[bytes + i], here[2 * bytes + i],
                         below[i], below[bytes + i], below[2 * bytes + i]};
        network::sort_triples(v);
        columns[i] = v[0];
        columns[stride + i] = v[1];
        columns[2 * stride + i] = v[2];
        columns[3 * stride + i] = v[3];
        columns[4 * stride + i] = v[4];
        columns[5 * stride + i] = v[5];
        columns[6 * stride + i] = v[6];
        columns[7 * stride + i] = v[7];
        columns[8 * stride + i] = v[8];
    }
}

// The median of three neighbouring sorted columns at every byte of a row. columns: ranks x stride bytes, from one
// pixel left of the row.
WIDEST_VECTORS void select_medians(const Byte* columns, Byte* out, size_t bytes, size_t stride) {
    INDEPENDENT_PASSES
    for (size_t i = 0; i < bytes; ++i) {
        const Byte* left = columns + i;
        const Byte* mid = left + channels;
        const Byte* right = mid + channels;
        Byte l[ranks], m[ranks], r[ranks];
        for (size_t rank = 0; rank < ranks; ++rank) {
            l[rank] = left[rank * stride];
            m[rank] = mid[rank * stride];
            r[rank] = right[rank * stride];
        }
        out[i] = network::median_of_columns(l, m, r);
    }
}

struct Job {
    const Byte* previous;
    const Byte* current;
    const Byte* following;
    Byte* out;
    size_t height;
    size_t bytes;  // of a row

    size_t stride() const { return bytes + 2 * channels; }
    size_t scratch_size() const { return taps * taps * bytes + ranks * stride(); }
};

// Filters rows first to last - 1.
void filter_rows(const Job& job, size_t first, size_t last, Byte* scratch) {
    const size_t bytes = job.bytes, stride = job.stride();
    Byte* const columns = scratch + taps * taps * bytes;
    const auto over_time = [&](size_t row) { return scratch + (row % taps) * taps * bytes; };  // a ring of three rows
    const auto take_row = [&](size_t row) {
        const size_t at = row * bytes;
        sort_over_time(job.previous + at, job.current + at, job.following + at, over_time(row), bytes);
    };
    if (first > 0) take_row(first - 1);
    take_row(first);
    for (size_t row = first; row < last; ++row) {
        const bool has_next = row + 1 < job.height;
        if (has_next) take_row(row + 1);
        const size_t next = has_next ? row + 1 : row > 0 ? row - 1 : row;
        const size_t before = row > 0 ? row - 1 : next;
        sort_columns(over_time(before), over_time(row), over_time(next), columns + channels, bytes, stride);
        const size_t inward = bytes > channels ? channels : 0;  // from the edge to the pixel that it mirrors
        for (size_t rank = 0; rank < ranks; ++rank) {
            Byte* const line = columns + rank * stride;
            std::memcpy(line, line + channels + inward, channels);
            std::memcpy(line + channels + bytes, line + bytes - inward, channels);
        }
        select_medians(columns, job.out + row * bytes, bytes, stride);
    }
}

size_t band_count(const Job& job, unsigned threads) {
    const size_t wanted = threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
    const size_t worthwhile = std::max<size_t>(1, job.height * job.bytes / smallest_band);
    return std::min({wanted, worthwhile, job.height});
}

}  // namespace

void median_3x3x3(const Byte* previous, const Byte* current, const Byte* following, Byte* out, size_t height,
                  size_t width, unsigned threads) {
    const Job job{previous, current, following, out, height, width * channels};
    const size_t bands = band_count(job, threads);
    // Everything that can run out of memory happens here, where an exception reaches the caller.
    std::vector<Byte> scratch(bands * job.scratch_size());
    std::vector<std::thread> workers;
    workers.reserve(bands);
    const auto filter_band = [&](size_t band) {
        filter_rows(job, height * band / bands, height * (band + 1) / bands, scratch.data() + band * job.scratch_size());
    };
    for (size_t band = 1; band < bands; ++band) {
        try {
            workers.emplace_back(filter_band, band);
        } catch (const std::system_error&) {
            filter_band(band);  // the system gives no more threads
        }
    }
    filter_band(0);
    for (std::thread& worker : workers) worker.join();
}

}  // namespace vexpress
