//! The daemon.

/// What is freed is wiped: no copy of a value outlives the request that made it.
#[global_allocator]
static ALLOCATOR: claviger::sys::WipingAllocator = claviger::sys::WipingAllocator;

fn main() -> std::process::ExitCode {
    claviger::app::main()
}
