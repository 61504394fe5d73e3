//! A real nginx that asks its clients for certificates.

use crate::sshd::{run, text};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

/// A web server that is gone when this process is.
pub struct Nginx {
    child: Child,
    port: u16,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nginx {
    /// Starts a server that asks for certificates of this authority and reads this revocation list, or says that there is none here.
    pub fn start(folder: &Path, server: &Path, ca: &Path, list: &Path) -> Option<Self> {
        let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].iter().find(|path| Path::new(path).exists());
        let Some(program) = program else {
            let text = "no nginx found (Debian: apt-get install nginx-light)";
            assert!(std::env::var_os("CLAVIGER_REQUIRE_PACKAGES").is_none_or(|value| value != "1"), "{text}");
            eprintln!("\n*** SKIPPED: {text}; what needs it was NOT tested ***\n");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (folder, server, ca, list) = (folder.display(), server.display(), ca.display(), list.display());
        let places: String =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {folder}/{what};\n")).concat();
        let config = format!(
            "daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;\nevents {{}}\n\
             http {{\naccess_log off;\n{places}server {{\nlisten 127.0.0.1:{port} ssl;\n\
             ssl_certificate {server}; ssl_certificate_key {server};\nssl_client_certificate {ca}; ssl_verify_client on; ssl_crl {list};\n\
             location / {{ return 200 \"$ssl_client_serial $ssl_client_s_dn\"; }}\n}}\n}}\n"
        );
        let file = format!("{folder}/nginx.conf");
        fs::write(&file, config).unwrap();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program, "-c", &file, "-e", &format!("{folder}/error.log")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || fs::read_to_string(format!("{folder}/error.log")).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "nginx: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Some(Self { child, port })
    }

    /// What the server answers to a client with this certificate, or with none.
    pub fn ask(&self, ca: &Path, certificate: Option<&Path>) -> String {
        let url = format!("https://localhost:{}/", self.port);
        let certificate = certificate.map(|path| ["--cert", path.to_str().unwrap()]).unwrap_or_default();
        let given = if certificate[0].is_empty() { &certificate[..0] } else { &certificate[..] };
        text(&run("curl", &[&["-sS", "--noproxy", "*", "--cacert", ca.to_str().unwrap()], given, &[url.as_str()]].concat()))
    }
}
