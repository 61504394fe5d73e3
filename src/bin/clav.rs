//! The client and the operators' tool.

/// What is freed is wiped: values pass through it.
#[global_allocator]
static ALLOCATOR: claviger::sys::WipingAllocator = claviger::sys::WipingAllocator;

fn main() -> std::process::ExitCode {
    claviger::cli::main()
}
