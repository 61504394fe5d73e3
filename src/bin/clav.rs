//! The client and the operators' tool.

fn main() -> std::process::ExitCode {
    claviger::cli::main()
}
