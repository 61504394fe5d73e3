"""What neighbours of a launched program try, and what it tries itself: one verb, answers as one JSON object on standard output."""
import ctypes, errno, json, os, socket, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
VERB, ARGS = sys.argv[1], sys.argv[2:]


def call(name, *arguments):
    function = getattr(libc, name)
    function.restype = ctypes.c_long
    ctypes.set_errno(0)
    done = function(*arguments)
    return "ok" if done >= 0 else errno.errorcode[ctypes.get_errno()]


def syscall(*arguments):
    return call("syscall", *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])


def attempt(work):
    try:
        work()
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]


if VERB == "attack":  # PID: everything by which one process gets at another
    pid = int(ARGS[0])
    out = {}
    for name in ("mem", "environ", "maps", "auxv", "io"):
        out[name] = attempt(lambda: open(f"/proc/{pid}/{name}", "rb").read(1) if name != "mem" else open(f"/proc/{pid}/mem", "r+b"))
    out["fd"] = attempt(lambda: os.readlink(f"/proc/{pid}/fd/0"))
    out["root"] = attempt(lambda: os.readlink(f"/proc/{pid}/root"))
    pidfd = os.pidfd_open(pid)
    out["pidfd_getfd"] = syscall(438, pidfd, 0, 0)
    here = ctypes.create_string_buffer(8)

    class Piece(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]

    ours, theirs = Piece(ctypes.addressof(here), 8), Piece(ctypes.addressof(here), 8)
    out["process_vm_readv"] = syscall(310, pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    limit = (ctypes.c_uint64 * 2)(1 << 20, 1 << 20)
    out["prlimit"] = syscall(302, pid, 1, ctypes.byref(limit), 0)
    out["kcmp"] = syscall(312, os.getpid(), pid, 0, 0, 0)
    # PTRACE_ATTACH last, and let go again.
    out["ptrace"] = syscall(101, 16, pid, 0, 0)
    if out["ptrace"] == "ok":
        os.waitpid(pid, 0x40000000)
        syscall(101, 17, pid, 0, 0)
    print(json.dumps(out))
elif VERB == "mint":  # FOLDER: a launched program tries to hand its group on, or to open itself
    os.chdir(ARGS[0])
    out = {}
    open("plain", "w").close()
    for mode in (0o2755, 0o4755, 0o6755):
        out[f"chmod {mode:o}"] = attempt(lambda: os.chmod("plain", mode))
        out[f"fchmod {mode:o}"] = attempt(lambda: os.fchmod(os.open("plain", os.O_RDONLY), mode))
        out[f"fchmodat2 {mode:o}"] = syscall(452, -100, b"plain", mode, 0)
        out[f"open {mode:o}"] = attempt(lambda: os.close(os.open(f"o{mode}", os.O_CREAT | os.O_WRONLY, mode)))
        out[f"old open {mode:o}"] = syscall(2, b"oo", os.O_CREAT | os.O_WRONLY, mode)
        out[f"creat {mode:o}"] = syscall(85, b"oc", mode)
        out[f"tmpfile {mode:o}"] = attempt(lambda: os.close(os.open(".", os.O_TMPFILE | os.O_WRONLY, mode)))
        out[f"mkdir {mode:o}"] = attempt(lambda: os.mkdir(f"d{mode}", mode))
        out[f"mknod {mode:o}"] = attempt(lambda: os.mknod(f"n{mode}", 0o100000 | mode))
    out["openat2"] = syscall(437, -100, b"plain", ctypes.create_string_buffer(24), 24)
    out["io_uring"] = syscall(425, 1, ctypes.create_string_buffer(120))
    out["x32"] = syscall(0x40000000 + 90, b"plain", 0o2755)
    out["clone3"] = syscall(435, ctypes.create_string_buffer(64), 64)
    out["unshare"] = call("unshare", 0x10000000)
    out["clone"] = syscall(56, 0x10000000 | 17, 0, 0, 0, 0)
    out["setns"] = call("setns", os.open("/proc/self/ns/user", os.O_RDONLY), 0)
    out["setgid"] = attempt(lambda: os.setresgid(61001, 61001, 61001))
    good = {
        "chmod": attempt(lambda: os.chmod("plain", 0o755)),
        "open": attempt(lambda: os.close(os.open("good", os.O_CREAT | os.O_WRONLY, 0o755))),
        "mkdir": attempt(lambda: os.mkdir("gooddir", 0o755)),
        "sticky": attempt(lambda: os.mkdir("sticky", 0o1755)),
        "fork": attempt(lambda: os.waitpid(os.fork() or os._exit(0), 0)),
    }
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    print(json.dumps({
        "refused": out, "good": good, "gids": os.getresgid(), "caps": status["CapPrm"].strip() + status["CapEff"].strip() + status["CapAmb"].strip(),
        "nnp": status["NoNewPrivs"].strip(), "environment": dict(os.environ), "cwd": os.getcwd(), "umask": status["Umask"].strip(),
        "core": __import__("resource").getrlimit(4), "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")), "ignored": status["SigIgn"].strip(),
        "blocked": status["SigBlk"].strip(), "arguments": ARGS,
    }), flush=True)
    sys.stdin.readline()
elif VERB == "own":  # FILE: a neighbour marks a file of the launched program's group
    os.chmod(ARGS[0], 0o2755)
    print(json.dumps({"mode": os.stat(ARGS[0]).st_mode & 0o7777, "gid": os.stat(ARGS[0]).st_gid}))
elif VERB in ("ask", "mimic"):  # SOCKET TEXT [MIMIC FACE]: whoever likes asks where the launcher asks, also with its face
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(10)
    if VERB == "ask":
        s.connect(ARGS[0])
    else:
        s.setblocking(True)
        mimic = subprocess.Popen([ARGS[2], ARGS[0], ARGS[3], "-"], stdin=subprocess.PIPE, stdout=s)
        while attempt(s.getpeername) != "ok" and mimic.poll() is None:
            time.sleep(0.001)
        assert os.readlink(f"/proc/{mimic.pid}/exe") == ARGS[3]
        mimic.stdin.write(ARGS[1].encode())
        mimic.stdin.flush()
        print(json.dumps({"answer": s.recv(512).decode()}))
        mimic.kill()
        sys.exit()
    try:
        s.send(ARGS[1].encode())
        answer = s.recv(512).decode()
    except OSError as error:
        answer = str(error)
    print(json.dumps({"answer": answer}))
elif VERB == "traced":  # LAUNCHER NAME: the launcher below a tracer
    pid = os.fork()
    if pid == 0:
        syscall(101, 0, 0, 0, 0)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        os.execv(ARGS[0], ARGS)
    status = 0
    while True:
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            break
        signal = os.WSTOPSIG(status)
        syscall(101, 7, pid, 0, 0 if signal == 5 else signal)
    print(json.dumps({"code": os.waitstatus_to_exitcode(status)}))
elif VERB == "relay":  # SOCKET PROGRAM BODY HEADERS: asks, leaves an accomplice with the connection, and becomes the trusted program
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(ARGS[0])
    body, headers = ARGS[2].encode(), ARGS[3].replace("|", "\r\n")
    s.sendall(f"POST /v1/leases HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
    if os.fork() == 0:
        print(json.dumps({"status": 1}), flush=True)
        sys.stdin.readline()
        data = s.recv(65536)
        while b"}" not in data[-2:] and (more := s.recv(65536)):
            data += more
        print(json.dumps({"answer": data.decode(errors="replace")}), flush=True)
        os._exit(0)
    os.environ["PYTHONHOME"] = "/usr"
    os.execv(ARGS[1], [ARGS[1], "-c", "import time; time.sleep(30)"])
elif VERB == "bound":  # LAUNCHER NAME: the launcher where no exec gives a privilege
    libc.prctl(38, 1, 0, 0, 0)
    os.execv(ARGS[0], ARGS)
