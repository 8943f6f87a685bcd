// The module `_cuda`. CUDA's runtime is linked statically and looks for the driver at the first launch, so that the
// import works on any machine.

#include "../kernel_bindings.hpp"
#include "launch.hpp"

NB_MODULE(_cuda, m) {
    vexpress::define_kernels(m, [](const auto& body, std::uint32_t columns, std::uint32_t rows, std::uintptr_t stream) {
        vexpress::cuda::launch(body, columns, rows, stream);
    });
}
