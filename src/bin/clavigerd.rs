//! The daemon.

fn main() -> std::process::ExitCode {
    claviger::app::main()
}
