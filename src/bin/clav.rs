//! Client and operator's tool.

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "demo"] => std::process::ExitCode::from(u8::from(!claviger::cli::demo::play())),
        [_, "demo-actor", socket, body] => std::process::ExitCode::from(u8::from(claviger::cli::demo::act(socket.as_ref(), body).is_err())),
        _ => std::process::ExitCode::from(2),
    }
}
