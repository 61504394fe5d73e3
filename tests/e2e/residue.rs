//! What a request leaves in the daemon's memory: root looks through all of it that can be read, afterwards and while the daemon goes on
//! serving, for values and keys that went through it. Keys rest where not even root can look.

use super::{host::*, leaks::Needles, postgres::*};
use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io::IoSliceMut,
    os::unix::fs::{FileExt, PermissionsExt},
    time::Duration,
};

const VALUE: &str = "rsd-7Qk2vXw9-a-value-that-is-read-again-and-again-T4mZ8cLp1Hs6Yd3N";
const PUT: &str = "rsd-Zr5tGb8n-a-value-that-is-put-over-and-over-W1jK6fQe9Xu2Vo7B";
const PASTED: &str = "rsd-hd3kpw6m-a-value-in-a-field-that-is-none-c8yn2srt5jg9lq4v";
const MASTER: &[u8; 32] = b"rsd-Mb4x-master-key-of-this-host";
/// In the daemon's memory for as long as it runs: whoever looks sees it, or sees nothing.
const CONTROL: &str = "app/residue-control-9f27c1b4e6";

/// Requests of each kind; `CLAVIGER_TEST_RESIDUE` says how many.
fn rounds() -> usize {
    std::env::var("CLAVIGER_TEST_RESIDUE").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

pub struct Memory {
    pub read: usize,
    /// Begin and length of what the kernel lets nobody read.
    closed: Vec<(u64, usize)>,
    pub found: BTreeMap<String, Vec<String>>,
}

/// All of a process's memory, by what its mappings are called.
pub fn look(pid: u32, needles: &Needles) -> Memory {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut seen = Memory { read: 0, closed: Vec::new(), found: BTreeMap::new() };
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (from, to) = fields[0].split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let what = fields.get(5..).map_or(String::new(), |name| name.join(" "));
        // The kernel's own pages, and mappings that nobody may touch.
        if fields[1].starts_with("---") || what.starts_with("[v") {
            continue;
        }
        let mut bytes = vec![0; (to - from) as usize];
        match memory.read_exact_at(&mut bytes, from) {
            Ok(()) => seen.read += bytes.len(),
            Err(error) => {
                // A thread that ended meanwhile took its stack along.
                if !fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines().any(|now| now == line) {
                    continue;
                }
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{line}");
                seen.closed.push((from, bytes.len()));
                assert!(what.starts_with("/secretmem"), "{line} cannot be read");
                continue;
            }
        }
        for name in needles.within(&bytes) {
            seen.found.entry(name).or_default().push(line.to_owned());
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_value_or_key_is_left_in_memory() {
    if !is_root() {
        return;
    }
    let cluster = Postgres::start().await;
    let mut setup = Setup {
        config: "[limits]\nconnections_per_second = 10000\n\
                 [[engine]]\nkind = \"jwt\"\nname = \"tokens\"\nissuer = \"https://tokens.example\"\nmax_ttl = \"1h\"\n"
            .to_owned(),
        identities: identity("shop", VICTIM, &(declared(CONTROL) + &declared("app/object"))).replace(", \"unix:path:$DIR/bin/shop\"", ""),
        secrets: secret(CONTROL, "internal", "")
            + &secret("app/object", "internal", "reads_max = 1000000")
            + &secret("app/put", "internal", "")
            + &secret("token/api", "internal", "settings = { audience = \"api\" }").replace("engine = \"local\"", "engine = \"tokens\""),
        policy: [CONTROL, "app/object", "token/api"].map(|name| grant("shop", name)).concat(),
        ..Setup::default()
    };
    if let Some(cluster) = &cluster {
        setup.config += &format!(
            "[[engine]]\nkind = \"postgres\"\nname = \"pg\"\nhost = \"{}\"\nport = {}\ndatabase = \"app\"\nuser = \"{BROKER}\"\npassword_file = \"$DIR/broker\"\n",
            cluster.socket_folder().display(),
            cluster.port
        );
        let rights = "settings = { grants = [\"GRANT USAGE ON SCHEMA app TO {{role}}\"] }";
        setup.secrets += &secret("db/orders", "internal", rights).replace("engine = \"local\"", "engine = \"pg\"");
        setup.policy += &grant("shop", "db/orders");
    }
    let mut host = Host::prepare(setup);
    for (name, bytes) in [("key", &MASTER[..]), ("broker", BROKER_PASSWORD.as_bytes())] {
        let _ = fs::remove_file(host.dir.join(name));
        fs::write(host.dir.join(name), bytes).unwrap();
        fs::set_permissions(host.dir.join(name), Permissions::from_mode(0o400)).unwrap();
    }
    host.launch();
    host.put(CONTROL, VALUE);
    host.put("app/object", &format!(r#"{{"user": "u", "password": "{VALUE}"}}"#));

    let mut needles = Needles::default();
    for (name, value) in [
        ("the value", VALUE.as_bytes()),
        ("the value that was put", PUT.as_bytes()),
        ("the pasted value", PASTED.as_bytes()),
        ("the master key", MASTER),
        ("the engine's password", BROKER_PASSWORD.as_bytes()),
    ] {
        needles.add(name, value);
    }
    let mut control = Needles::default();
    control.add("the control", CONTROL.as_bytes());

    let body = |name: &str| format!(r#"{{"secret":"{name}","purpose":"testing"}}"#);
    let mut holder = host.hold(VICTIM, "shop", &["hold", &body(CONTROL)]);
    let lease = holder.lease();
    let mut call = |line: String, expected: u16| {
        holder.say(&format!("call {line}"));
        let answer = holder.line();
        assert_eq!(answer["status"], expected, "{line}: {answer}");
        answer["body"].clone()
    };
    for _ in 0..rounds() {
        assert_eq!(call(format!("GET /v1/leases/{lease}/secret"), 200)["secret"]["value"], VALUE);
        // As Vault's clients read: the value as it is, and the members of an object.
        assert_eq!(call(format!("GET /v1/secret/data/{CONTROL}"), 200)["data"]["data"]["value"], VALUE);
        assert_eq!(call("GET /v1/creds/app/object".to_owned(), 200)["data"]["password"], VALUE);
        call(format!("POST /v1/leases/{lease}/renew"), 200);
        let issued = call(format!("POST /v1/leases {}", body(CONTROL)), 201);
        call(format!("DELETE /v1/leases/{}", issued["lease"]["id"].as_str().unwrap()), 200);
        call(format!("POST /v1/leases {}", body("app/put")), 403);
        call(format!("POST /v1/leases {{\"secret\":\"{CONTROL}\",\"purpose\":\"testing\",\"nothing\":\"{PASTED}\"}}"), 400);
    }
    // What is made for a lease is looked for too, and is as little kept.
    for name in ["token/api", "db/orders"].iter().take(1 + usize::from(cluster.is_some())) {
        let issued = call(format!("POST /v1/leases {}", body(name)), 201);
        needles.add(name, issued["secret"]["value"].as_str().unwrap().as_bytes());
        let id = issued["lease"]["id"].as_str().unwrap();
        for _ in 0..3 {
            let again = call(format!("GET /v1/leases/{id}/secret"), 200);
            needles.add(name, again["secret"]["value"].as_str().unwrap().as_bytes());
        }
        call(format!("DELETE /v1/leases/{id}"), 200);
    }
    for _ in 0..rounds().div_ceil(10) {
        host.put("app/put", PUT);
    }
    holder.kill();
    host.wait_until(Duration::from_secs(20), "the holder's leases are over", |host| host.live().is_empty());

    let pid = host.pid();
    let memory = look(pid, &needles);
    assert!(!look(pid, &control).found.is_empty(), "whoever looks sees what is there");
    eprintln!("{} KiB read in {} mappings' names, {:?} closed", memory.read >> 10, memory.found.len(), memory.closed);
    assert!(memory.read > 10 << 20, "the memory was read");
    assert!(memory.found.is_empty(), "{:#?}", memory.found);
    if memory.closed.is_empty() {
        eprintln!("\n*** SKIPPED: this kernel has no secret memory, so whether it can be read was not looked at ***\n");
        return;
    }
    for (from, len) in &memory.closed {
        let mut into = vec![0; 64.min(*len)];
        let remote = RemoteIoVec { base: *from as usize, len: into.len() };
        let read = process_vm_readv(Pid::from_raw(pid as i32), &mut [IoSliceMut::new(&mut into)], &[remote]);
        assert_eq!(read, Err(nix::errno::Errno::EFAULT), "root reads the vault");
    }
}
