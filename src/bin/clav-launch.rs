//! The launcher: starts a program apart from other programs of the same user.

fn main() -> std::process::ExitCode {
    claviger::launch::main(std::env::args_os().collect(), std::env::vars_os().collect()).into()
}
