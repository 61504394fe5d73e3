//! The kernel: peers, processes, files, clocks, systemd. The only home of `nix`, `libc` and `unsafe`.

pub mod append;
mod blocking;
mod capability;
mod cgroup;
mod child;
mod clock;
mod confine;
mod exe;
mod file;
mod host;
mod journal;
mod launch;
mod mutation;
mod owner;
mod packet;
mod passing;
mod peer;
mod pidfd;
mod printable;
mod probe;
mod process;
mod procfs;
mod resident;
mod seccomp;
#[cfg(any(test, feature = "testing"))]
mod simulated;
mod socket;
mod storage;
mod stream;
mod terminal;
mod trusted;
mod vault;
mod wiping;

pub use blocking::blocking;
pub use cgroup::GroupWatch;
pub use child::{SharedMemory, forward_signal, sealed_memory, signal_number};
pub use clock::{Clock, ManualClock, SystemClock};
pub use confine::{Reach, Role, Shortfall, confine, harden};
#[cfg(feature = "testing")]
pub use exe::file_system_in;
pub use exe::{Executable, FileId, TRUSTED_FILE_SYSTEMS, file_id};
pub use file::{
    FileError, FileLock, check_place, file_names, last_written, private_folder, read_private, share_folder, write_atomic, write_atomic_for,
};
pub use host::{Host, HostFile};
pub use journal::{JOURNAL_SOCKET, SYSLOG_SOCKET, send_journal, send_syslog};
pub use launch::{
    CAP_SETGID, LAUNCH_GIDS, NotRoots, become_program, check_roots_file, check_roots_named, check_roots_tree, keep_standard_streams_only,
    launcher_fault, may_set_groups, read_roots_file, settle,
};
#[cfg(mutations)]
pub use mutation::{active as mutation_active, is_next as failpoint_is_next, reached as failpoint_reached};
pub use owner::{FileOwner, in_memory};
pub use packet::{AsyncPackets, MAX_DESCRIPTORS, Packet, Packets};
pub use passing::{Shortage, is_passing, is_passing_io, is_shortage};
pub use peer::{OVERFLOW_ID, PeerCred, pass_credentials, peer_cred, peer_groups, peer_name, peer_pidfd, refuse_descriptors};
pub use pidfd::{Found, PidHandle, PidInfo, Pidfd};
pub use printable::{printable, printable_group, printable_path};
pub use probe::{Feature, Kernel};
pub use process::{
    euid, gid_of, has_own_users, login_uids, make_room_for_descriptors, may_look_at_all, notify_ready, notify_reloading, notify_stopping,
    notify_watchdog, passed_listeners, pause, uid_of, watchdog_interval,
};
pub use procfs::{IdFiles, MACHINE_ID, MapPin, ProcDir, Stat, Status, boot_id, machine_id};
#[cfg(feature = "testing")]
pub use procfs::{parse_cgroup, parse_stat, parse_status};
pub use resident::{release_free_memory, release_start_pages};
#[cfg(any(test, feature = "testing"))]
pub use simulated::{Fault, SimulatedVolume};
pub use socket::{
    BindError, adopt, adopt_packets, arm, check_closed_socket, is_roots_socket, listen_at, listen_packets_at, open_trusted_dir,
    remove as remove_socket, socket_folder_owner,
};
pub use storage::{DiskVolume, Keep, Space, Storage, Volume};
pub use stream::{CheckedStream, Cut, Leave, Reading};
pub use terminal::{in_foreground, prompt_secret};
pub use trusted::{TrustError, read_trusted, read_trusted_folder, unread_in_folder};
pub use vault::{VaultBytes, Vaulted, vault_shortfall};
pub use wiping::{WipingAllocator, scrub_stack};
