"""Attacks as loops: SOCKET VERB ROUNDS ARGS. One process does all rounds, in an order that depends on their number alone, and says at the
end how many were truly staged, how many brought the value, and what was answered. As root where uids change; see each verb."""
import array, collections, ctypes, json, os, signal, socket, sys, threading, time

SOCK, VERB, ROUNDS, ARGS = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
VICTIM, ATTACKER, AGENT, MEASURED = 61001, 61002, 61003, 61005
BIN = os.path.dirname(SOCK) + "/bin/"
VALUE = b"value-one"
ASK = b'{"secret":"app/one","purpose":"testing"}'
LIBC = ctypes.CDLL(None, use_errno=True)
signal.alarm(900)
staged = served = 0
answers = collections.Counter()


def request(method, path, body=b"", nonce=None):
    more = f"claviger-nonce: {nonce}\r\n" if nonce else ""
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body


LEASE, WHO, HEALTH = request("POST", "/v1/leases", ASK), request("GET", "/v1/whoami"), request("GET", "/v1/health")


def connect(s=None):
    s = s or socket.socket(socket.AF_UNIX)
    s.settimeout(15)
    s.connect(SOCK)
    return s


def read(s):
    """One answer, as its status and bytes; 0 where the connection is closed instead."""
    data, length = b"", None
    try:
        while length is None or len(data) < length:
            more = s.recv(65536)
            if not more:
                return 0, data
            data += more
            if length is None and b"\r\n\r\n" in data:
                head = data[: data.index(b"\r\n\r\n") + 4]
                length = len(head) + int(head.lower().split(b"content-length:")[1].split(b"\r")[0])
        return int(data[9:12]), data
    except ConnectionError:
        return 0, data


def ask(s, text):
    try:
        s.sendall(text)
    except ConnectionError:
        return 0, b""
    return read(s)


def known(s, path="/v1/whoami"):
    """The first request of an honest process; it answers the challenge of kernels that do not pin at connect."""
    status, data = ask(s, request("GET", path))
    if b'"assurance":"uid"' in data:
        asked = ask(s, LEASE)[1]
        if b'"nonce":"' in asked:
            status, data = ask(s, request("GET", path, nonce=asked.split(b'"nonce":"')[1].split(b'"')[0].decode()))
    assert status == 200, data
    return data


def count(was_staged, status, data):
    """What a round brought. The value is looked for in the bytes themselves."""
    global staged, served
    staged += bool(was_staged)
    served += VALUE in data
    code = data.split(b'"code":"')[1].split(b'"')[0].decode() if b'"code":"' in data else ("closed" if status == 0 else str(status))
    answers[code] += 1


def drop(uid, groups=()):
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def child(act):
    """A child that does this and never comes back."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException as error:
            os.write(2, f"{VERB}: {error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return pid


def become(program, text, s):
    """Puts another program into this process: it writes this text on the connection and stays until it is ended. `cat` by another name."""
    r, w = os.pipe()
    os.write(w, text)
    os.set_inheritable(w, True)  # held by itself, so it never sees the end of its input
    s.setblocking(True)
    os.dup2(r, 0)
    os.dup2(s.fileno(), 1)
    os.execv(program, [program])


class Accomplice:
    """Another process, of this uid, that does on a connection that is passed to it what it is told."""

    def __init__(self, uid):
        self.mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = child(lambda: self.live(its, uid))
        its.close()

    def live(self, its, uid):
        self.mine.close()
        drop(uid) if os.geteuid() == 0 and uid else None
        while True:
            text, fds, _, _ = socket.recv_fds(its, 65536, 1)
            if not fds:
                return
            s = socket.socket(fileno=fds[0])
            s.settimeout(15)
            try:
                if text[:1] == b"F":  # with a forged sender: this pid instead of its own
                    pid, uid, gid = (int(n) for n in text[1:25].split())
                    forged = array.array("i", [pid, uid, gid])
                    s.sendmsg([text[25:]], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, forged)])
                else:
                    s.sendall(text[1:])
                its.send(b"1")
            except OSError as error:
                its.send(b"0" + str(error).encode())
            s.close()

    def write(self, s, text, forged=None):
        head = b"W" if forged is None else b"F" + b"%8d %7d %7d" % forged
        socket.send_fds(self.mine, [head + text], [s.fileno()])
        return self.mine.recv(100)[:1] == b"1"

    def end(self):
        self.mine.shutdown(socket.SHUT_RDWR)
        os.waitpid(self.pid, 0)


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def hold_still(daemon):
    os.kill(daemon, signal.SIGSTOP)
    while open(f"/proc/{daemon}/stat").read().rsplit(")", 1)[1].split()[0] != "T":
        time.sleep(0.0005)


def go_on(daemon):
    os.kill(daemon, signal.SIGCONT)


class Warden:
    """Holds the daemon still and lets it go on, for a process that has no right to."""

    def __init__(self, daemon):
        self.mine, its = socket.socketpair()

        def obey():
            self.mine.close()
            while told := its.recv(1):
                hold_still(daemon) if told == b"h" else go_on(daemon)
                its.send(b"1")

        self.pid = child(obey)
        its.close()

    def tell(self, what):
        self.mine.send(what)
        self.mine.recv(1)


def clone_as(pid, act):
    """A child with exactly this process id: clone3(2) with set_tid. 0 where somebody has it."""
    tids = (ctypes.c_int * 1)(pid)
    args = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(tids), 1, 0)
    made = LIBC.syscall(435, ctypes.byref(args), 88)
    if made == 0:
        try:
            act()
        finally:
            os._exit(1)
    return max(made, 0)


def foreign():
    """As root, program of an identity: others write on its connection: its child, another user, root with a forged sender; whole requests,
    the end of one that it began, and a piece in the middle."""
    same, other, root = Accomplice(VICTIM), Accomplice(ATTACKER), Accomplice(0)
    drop(VICTIM)
    for n in range(ROUNDS):
        s = connect()
        good = b'"name":"orders"' in known(s)
        who = (same, other)[n % 2]
        cut = 1 + n // 5 % (len(LEASE) - 2)
        kind = n % 5
        try:
            if kind in (0, 1):
                wrote = who.write(s, LEASE)
            elif kind == 2:
                s.sendall(LEASE[:cut])
                wrote = who.write(s, LEASE[cut:])
            elif kind == 3:
                s.sendall(LEASE[:cut])
                wrote = who.write(s, LEASE[cut : cut + 1])
                s.sendall(LEASE[cut + 1 :])
            else:
                wrote = root.write(s, LEASE, (root.pid, VICTIM, VICTIM))
            count(good and wrote, *read(s))
        except ConnectionError:
            count(good and wrote, 0, b"")
        s.close()
    for accomplice in (same, other, root):
        accomplice.end()


def reuse(daemon):
    """As root: who connected is gone, the trusted program runs in a process with the same id, and it or an accomplice asks on the connection.
    In every other round the daemon is held still meanwhile: the kernel's worst schedule."""
    accomplice = Accomplice(VICTIM)
    for n in range(ROUNDS):
        still = n % 2 == 0
        by_itself = n // 2 % 2 == 0
        if still:
            hold_still(daemon)
        s = socket.socket(socket.AF_UNIX)
        first = child(lambda: (drop(VICTIM), connect(s)))
        assert os.waitpid(first, 0)[1] == 0
        began, begins = os.pipe()

        def victim():
            drop(VICTIM)
            become(BIN + "keeper", LEASE if by_itself else b"", s)

        second = clone_as(first, victim)
        os.close(begins)
        os.read(began, 1)  # its end is closed by the exec
        os.close(began)
        if second:
            assert os.readlink(f"/proc/{second}/exe") == BIN + "keeper"
        if still:
            go_on(daemon)
        s.settimeout(15)
        wrote = by_itself or accomplice.write(s, LEASE)
        count(second == first, *read(s)) if second else count(False, 0, b"")
        s.close()
        if second:
            end(second)
    accomplice.end()


def exec_to(program):
    """As root: a process asks as what it is, then another program in the same process asks on the same connection: for the value that was
    held, and for a new one. Started as an identity's program it becomes nobody's, and the other way round."""
    drop(VICTIM)
    for n in range(ROUNDS):
        s = socket.socket(socket.AF_UNIX)
        told, tell = os.pipe()

        def become_other():
            connect(s)
            known(s)
            text = LEASE
            if n % 2 == 0:
                status, data = ask(s, LEASE)
                if status == 201:
                    lease = data.split(b'"lease-')[1].split(b'"')[0].decode()
                    text = request("GET", f"/v1/leases/lease-{lease}/secret")
            os.write(tell, b"1")
            become(BIN + program, text, s)

        pid = child(become_other)
        os.close(tell)
        good = os.read(told, 1) == b"1"
        os.close(told)
        s.settimeout(15)
        status, data = read(s)
        became = os.readlink(f"/proc/{pid}/exe") == BIN + program
        count(good and became, status, data)
        s.close()
        end(pid)


def connected(s):
    try:
        return bool(s.getpeername())
    except OSError:
        return False


def keepmap():
    """As root: the program of an identity has a lease, and leaves a helper that shares its memory map when it becomes another program, so
    the pinned map stays whole. The other program asks for a new lease on the same connection."""
    drop(VICTIM)
    for n in range(ROUNDS):
        s = socket.socket(socket.AF_UNIX)
        r, w = os.pipe()

        def ask_first():
            os.dup2(r, 0)
            os.set_inheritable(w, True)
            os.dup2(s.fileno(), 1)
            os.execv(BIN + "keepmap", [BIN + "keepmap", SOCK, LEASE.decode(), BIN + "evil"])

        pid = child(ask_first)
        while not connected(s):
            time.sleep(0.0002)
        s.settimeout(15)
        first = read(s)
        os.write(w, b"g" + LEASE)
        status, data = read(s)
        became = os.readlink(f"/proc/{pid}/exe") == BIN + "evil"
        # The helper lives, so the map does.
        helper = open(f"/proc/{pid}/task/{pid}/children").read().split()
        count(first[0] == 201 and became and len(helper) == 1, status, data)
        os.close(r)
        os.close(w)
        s.close()
        end(pid)


def changed(daemon):
    """As root: ids are not those at connect, by each way that changes them."""
    for n in range(ROUNDS):
        s = socket.socket(socket.AF_UNIX)
        told, tell = os.pipe()
        kind = n % 7
        if kind == 3:
            hold_still(daemon)

        def change():
            if kind == 0:  # root drops its privilege
                connect(s)
                known(s, "/v1/health")
                drop(VICTIM)
            elif kind in (1, 2):  # a set-user-id and a set-group-id program are given the connection as standard output
                drop(VICTIM)
                connect(s)
                known(s, "/v1/health")
            elif kind == 3:  # root drops its privilege and executes the trusted program before anybody looked
                connect(s)
                drop(VICTIM)
            elif kind in (4, 5):  # only groups, or only the group, change
                os.setgroups([])
                os.setresgid(VICTIM, VICTIM, VICTIM)
                os.setresuid(VICTIM, VICTIM, 0)
                connect(s)
                known(s, "/v1/health")
                os.seteuid(0)
                os.setgroups([AGENT]) if kind == 4 else os.setresgid(AGENT, AGENT, AGENT)
                os.setresuid(VICTIM, VICTIM, VICTIM)
            else:  # real and effective uid differ all the time
                os.setgroups([])
                os.setresgid(VICTIM, VICTIM, VICTIM)
                os.setresuid(ATTACKER, VICTIM, VICTIM)
                connect(s)
                known(s, "/v1/health")
            os.write(tell, b"1")
            if kind in (1, 2, 3):
                become(BIN + ("setuid", "setgid", "keeper")[kind - 1], LEASE, s)
            s.sendall(LEASE)
            signal.pause()

        pid = child(change)
        os.close(tell)
        good = os.read(told, 1) == b"1"
        os.close(told)
        if kind == 3:
            while os.readlink(f"/proc/{pid}/exe") != BIN + "keeper":
                time.sleep(0.0005)
            go_on(daemon)
        s.settimeout(15)
        count(good, *read(s))
        end(pid)
        s.close()


def zombie(daemon):
    """As root, program of an identity: the peer is a zombie when its own request is read, or when an accomplice asks."""
    accomplice = Accomplice(VICTIM)
    for n in range(ROUNDS):
        s = socket.socket(socket.AF_UNIX)
        told, tell = os.pipe()
        go, start = os.pipe()

        def die():
            drop(VICTIM)
            connect(s)
            known(s)
            os.write(tell, b"1")
            os.read(go, 1)
            if n % 2 == 0:
                s.sendall(LEASE)

        pid = child(die)
        assert os.read(told, 1) == b"1"
        if n % 2 == 0:
            hold_still(daemon)
        os.write(start, b"1")
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        dead = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"
        if n % 2 == 0:
            go_on(daemon)
        else:
            accomplice.write(s, LEASE)
        s.settimeout(15)
        count(dead, *read(s))
        os.waitpid(pid, 0)
        for fd in (told, tell, go, start):
            os.close(fd)
        s.close()
    accomplice.end()


def by_program(warden, round):
    """In each round a process connects and becomes the program that `round` says, which asks; this process, an accomplice, reads the answer.
    The process says its number; what `round` returns is done in the end. The daemon is held still until it is that program, so that it
    sees nothing else; without a warden it goes on."""
    for n in range(ROUNDS):
        s = socket.socket(socket.AF_UNIX)
        told, tell = os.pipe()
        if warden:
            warden.tell(b"h")
        after = round(n, s, tell)
        os.close(tell)
        said = b""
        while more := os.read(told, 20):  # until an exec, or its end, closes it
            said += more
        pid = int(said or 0)
        if warden:
            warden.tell(b"g")
        os.close(told)
        s.settimeout(15)
        count(pid, *read(s))
        s.close()
        if pid:
            os.kill(pid, signal.SIGKILL)
        after()
    if warden:
        warden.mine.close()
        os.waitpid(warden.pid, 0)


def here(tell):
    os.write(tell, b"%d" % os.getpid())


def ask_as(uid, program, s, tell, before=lambda: None):
    def act():
        drop(uid) if os.geteuid() == 0 else None
        before()
        connect(s)
        here(tell)
        become(program, LEASE, s)

    pid = child(act)
    return lambda: os.waitpid(pid, 0)


def odd(daemon):
    """As root: executables whose names or ways of being look like the trusted one's."""
    warden = Warden(daemon)
    endings = [" (deleted)", "\n", " ", "\\012", "\\x0a", "\u200b", "//", "\x1b[0m", "\t", ".", "\u0430"]

    def round(n, s, tell):
        kind = n % 4
        if kind == 0:  # a look-alike name, of the trusted file itself or of another
            name = BIN + "keeper" + endings[n // 4 % len(endings)].replace("/", "\u2044") + ("" if n % 8 else str(n))
            os.link(BIN + ("keeper" if n // 4 % 2 else "evil"), name) if not os.path.exists(name) else None
            after = ask_as(VICTIM, name, s, tell)
            return lambda: (after(), os.unlink(name))
        if kind == 1:  # in memory
            fd = os.memfd_create("keeper")
            with open(BIN + "evil", "rb") as f:
                os.sendfile(fd, f.fileno(), 0, 1 << 24)
            os.set_inheritable(fd, True)
            after = ask_as(VICTIM, f"/proc/self/fd/{fd}", s, tell)
            return lambda: (after(), os.close(fd))
        if kind == 2:  # through a link of the trusted name in a folder of one's own
            folder = f"{BIN}far{n}"
            os.mkdir(folder)
            os.symlink(BIN + "evil", folder + "/keeper")
            after = ask_as(VICTIM, folder + "/keeper", s, tell)
            return lambda: (after(), os.unlink(folder + "/keeper"), os.rmdir(folder))
        # A copy that is deleted while it runs, before anybody looks.
        name = f"{BIN}gone{n}"
        os.link(BIN + "evil", name)
        r, w = os.pipe()
        began, begins = os.pipe()

        def act():
            drop(VICTIM)
            connect(s)
            os.dup2(r, 0)
            os.set_inheritable(w, True)
            os.dup2(s.fileno(), 1)
            os.execv(name, [name])

        pid = child(act)
        os.close(begins)
        os.read(began, 1)
        os.close(began)
        os.unlink(name)
        os.write(w, LEASE)
        os.close(w)
        os.close(r)
        os.write(tell, b"%d" % pid)
        return lambda: os.waitpid(pid, 0)

    by_program(warden, round)


def mount(daemon):
    """As root: in a mount namespace of its own another program lies at the trusted path; and the trusted one in a user namespace, and in a
    root folder, of its own."""
    warden = Warden(daemon)
    jail = os.path.dirname(SOCK) + "/jail"
    os.mkdir(jail)
    need = lambda done: done == 0 or sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
    need(LIBC.unshare(0x20000))
    need(LIBC.mount(b"none", b"/", None, 0x4000 | 0x40000, None))
    need(LIBC.mount(b"/", jail.encode(), None, 0x1000 | 0x4000, None))
    inside = jail + os.path.dirname(SOCK)
    need(LIBC.mount((BIN + "evil").encode(), f"{inside}/bin/keeper".encode(), None, 0x1000, None))
    need(LIBC.mount((BIN + "evil").encode(), (BIN + "keeper").encode(), None, 0x1000, None))

    def round(n, s, tell):
        if n % 3 == 0:
            return ask_as(VICTIM, BIN + "keeper", s, tell)
        if n % 3 == 1:
            return ask_as(VICTIM, BIN + "keeper", s, tell, lambda: need(LIBC.unshare(0x10000000)))

        def act():
            os.chroot(jail)
            drop(VICTIM)
            connect(s)
            here(tell)
            become(BIN + "keeper", LEASE, s)

        pid = child(act)
        return lambda: os.waitpid(pid, 0)

    by_program(warden, round)


def others(daemon):
    """As root: the trusted program run by another user; another program of its user's; a relay that passes on what the trusted one wrote."""
    warden = Warden(daemon)

    def round(n, s, tell):
        if n % 3 == 0:
            return ask_as(ATTACKER, BIN + "keeper", s, tell)
        if n % 3 == 1:
            return ask_as(VICTIM, BIN + "evil", s, tell)

        def relay():
            drop(VICTIM)
            r, w = os.pipe()
            pid = child(lambda: (os.dup2(w, 1), os.execv(BIN + "keeper", [BIN + "keeper", text])))
            os.waitpid(pid, 0)
            connect(s)
            here(tell)
            os.close(tell)
            s.sendall(os.read(r, 65536))
            signal.pause()

        pid = child(relay)
        return lambda: os.waitpid(pid, 0)

    text = os.path.dirname(SOCK) + "/request"
    with open(text, "wb") as f:
        f.write(LEASE)
    by_program(warden, round)


def below(daemon):
    """As root, program of an agent: a registered workload's program below it, and one that left its tree."""
    warden = Warden(daemon)
    drop(AGENT)

    def round(n, s, tell):
        if n % 2 == 0:
            return ask_as(AGENT, BIN + "deserter", s, tell)

        def leave():
            os.setsid()
            between = os.getpid()

            def orphan():
                while os.getppid() == between:
                    time.sleep(0.0005)
                connect(s)
                here(tell)
                become(BIN + "deserter", LEASE, s)

            child(orphan)

        pid = child(leave)
        os.waitpid(pid, 0)
        return lambda: None

    by_program(warden, round)


def file(daemon, path):
    """As root: a program that lies at this path, on a file system of somebody's."""
    warden = Warden(daemon)
    by_program(warden, lambda n, s, tell: ask_as(VICTIM, path, s, tell))


class Mimic:
    """As root: a process of this user that gives itself another program's face, or a strange file for its arguments, and asks what `tell`
    tells it. With `first` it has connected and asked before it changes; `below` is the user of its parent."""

    def __init__(self, uid, s, face="-", argv="-", first=None, below=None, program=None):
        self.s, self.face = s, face
        program = program or BIN + "mimic"
        r, self.words = os.pipe()
        told, tell = os.pipe()
        go, start = os.pipe()

        def become_it():
            os.read(go, 1)
            drop(uid)
            os.dup2(r, 0)
            os.dup2(s.fileno(), 1)
            os.execv(program, [program, SOCK, face, argv] + ([first] if first else []))

        def stand_above():
            pid = child(become_it)
            drop(below) if below else None
            os.write(tell, b"%d" % pid)
            os.waitpid(pid, 0)

        self.above = child(stand_above)
        os.close(tell)
        self.pid = int(os.read(told, 20))
        os.write(start, b"1")
        for fd in (r, told, go, start):
            os.close(fd)
        until = time.monotonic() + 15
        while not connected(s) and time.monotonic() < until:
            time.sleep(0.0005)
        s.settimeout(15)

    def tell(self, text):
        os.write(self.words, text)

    def has_face(self):
        try:
            return os.readlink(f"/proc/{self.pid}/exe") == self.face
        except OSError:
            return False

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.above, 0)
        os.close(self.words)
        self.s.close()


def face():
    """As root, program of an identity: /proc/PID/exe says another program than runs. What that brings: no more assurance than any program of
    the user has; nothing after connecting; not another user's secrets; nothing to who left an agent's tree; and, with the client's face, not
    what belongs to a parent of another user's."""
    two = LEASE.replace(b"app/one", b"app/two")
    for n in range(ROUNDS):
        uid, face, text, more = (
            (VICTIM, "keeper", two, {}),
            (VICTIM, "keeper", LEASE, {"first": WHO.decode()}),
            (VICTIM, "alone", two, {}),
            (AGENT, "deserter", LEASE, {}),
            (ATTACKER, "clav", LEASE, {"below": VICTIM}),
        )[n % 5]
        s = socket.socket(socket.AF_UNIX)
        mimic = Mimic(uid, s, BIN + face, **more)
        good = True
        if more.get("first"):
            good = b'"no_identity"' in read(s)[1]
            mimic.tell(b"g")
            while not mimic.has_face():
                time.sleep(0.0005)
        mimic.tell(text)
        status, data = read(s)
        count(good and mimic.has_face(), status, data)
        mimic.end()


def argv(path):
    """As root: a process whose arguments and environment lie in this file, on a file system of somebody's, asks."""
    for n in range(ROUNDS):
        s = socket.socket(socket.AF_UNIX)
        mimic = Mimic((VICTIM, ATTACKER)[n % 2], s, argv=path)
        mimic.tell(LEASE)
        status, data = read(s)
        maps = open(f"/proc/{mimic.pid}/maps").read()
        # The kernel reads only memory of no file there, since Linux 4.17 (CVE-2018-1120).
        said = [open(f"/proc/{mimic.pid}/{name}", "rb").read() for name in ("cmdline", "environ")]
        count(path in maps and said == [b"", b""], status, data)
        mimic.end()


def leader():
    """As root, program of an identity: the leader of the process has ended, one of its threads asks."""
    def round(n, s, tell):
        def act():
            drop(VICTIM)
            connect(s)
            if n % 2 == 0:
                known(s)

            def work():
                while open(f"/proc/{os.getpid()}/task/{os.getpid()}/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
                    time.sleep(0.0005)
                here(tell)
                os.close(tell)
                s.sendall(LEASE)
                signal.pause()

            threading.Thread(target=work).start()
            LIBC.syscall(60, 0)

        pid = child(act)
        return lambda: os.waitpid(pid, 0)

    by_program(None, round)


def descriptors():
    """A user passes descriptors with every request: one to the most that a message may have."""
    drop(ATTACKER)
    null = os.open("/dev/null", os.O_RDONLY)
    passed = refused = 0
    s = connect()
    for n in range(ROUNDS):
        many = 1 + n * 37 % 253
        try:
            socket.send_fds(s, [WHO], [null] * many)
            passed += many
            status, data = read(s)
        except PermissionError:
            refused += many
            status, data = 0, b""
        except ConnectionError:
            status, data = 0, b""
            s = connect()
        if status == 0 and passed:
            s = connect()
        count(True, status, data)
    # Since Linux 6.16 a receiver can forbid them.
    return {"passed": passed, "refused": refused, "forbidden": LIBC.setsockopt(s.fileno(), socket.SOL_SOCKET, 83, b"\0" * 4, 4) == 0}


def connections():
    """A user opens connections, asks on each, and closes none."""
    drop(ATTACKER)
    held = []
    for n in range(ROUNDS):
        s = connect()
        held.append(s)
        count(True, *ask(s, HEALTH))


def many():
    """As root: users with 50 connections each ask on every one and close none, all at once in the end."""
    told, tell = os.pipe()
    go, start = os.pipe()
    crowd = []
    for n in range(0, ROUNDS, 50):

        def sit(uid=70000 + n // 50, places=min(50, ROUNDS - n)):
            os.close(start)
            drop(uid)
            held = [connect() for _ in range(places)]
            codes = [ask(s, HEALTH)[0] for s in held]
            os.write(tell, bytes(code == 200 for code in codes))
            os.read(go, 1)

        crowd.append(child(sit))
        while sum(answers.values()) < min(n + 50, ROUNDS):
            for good in os.read(told, 50):
                count(True, 200 if good else 0, b"")
    os.close(start)
    for pid in crowd:
        os.waitpid(pid, 0)


def large():
    """As root: a user runs programs of 200 MB, each another file, that ask who they are: the content is to be measured."""
    began = time.monotonic()
    for n in range(ROUNDS):
        name = f"{BIN}large{n}"
        with open(BIN + "mimic", "rb") as f, open(os.open(name, os.O_CREAT | os.O_WRONLY, 0o755), "wb") as to:
            to.write(f.read())
            to.truncate(200_000_000)
        s = socket.socket(socket.AF_UNIX)
        mimic = Mimic(MEASURED, s, program=name)
        s.settimeout(60)
        mimic.tell(WHO)
        status, data = read(s)
        count(os.readlink(f"/proc/{mimic.pid}/exe") == name, status, data)
        mimic.end()
        os.unlink(name)
    return {"seconds": time.monotonic() - began}


def slow():
    """A user begins requests, each at another place, and never ends one: all that its connections allow, over and over."""
    drop(ATTACKER)
    done = 0
    while done < ROUNDS:
        many = [connect() for n in range(min(16, ROUNDS - done))]
        for n, s in enumerate(many):
            try:
                s.sendall(LEASE[: 1 + (done + n) * 7 % (len(LEASE) - 1)])
            except ConnectionError:
                pass
        for s in many:
            count(True, *read(s))
            s.close()
        done += len(many)


def bodies():
    """A user sends bodies larger than any that is read: of a length that is said, and of one that is not."""
    drop(ATTACKER)
    for n in range(ROUNDS):
        s = connect()
        piece = b"x" * 65536
        if n % 2 == 0:
            s.sendall(b"POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n")
        else:
            s.sendall(b"POST /v1/leases HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            piece = b"10000\r\n" + piece + b"\r\n"
        sent = 0
        try:
            while sent < 8 << 20:
                sent += s.send(piece)
        except ConnectionError:
            pass
        count(sent < 8 << 20, *read(s))
        s.close()


def refusals():
    """A user asks for what it may not have, each time for something else."""
    drop(ATTACKER)
    s = connect()
    for n in range(ROUNDS):
        status, data = ask(s, request("POST", "/v1/leases", b'{"secret":"app/n%d","purpose":"testing"}' % n))
        count(True, status, data)
        if status == 0:
            s = connect()


VERBS = {
    "foreign": foreign,
    "reuse": lambda: reuse(int(ARGS[0])),
    "exec": lambda: exec_to(ARGS[0]),
    "keepmap": keepmap,
    "changed": lambda: changed(int(ARGS[0])),
    "zombie": lambda: zombie(int(ARGS[0])),
    "odd": lambda: odd(int(ARGS[0])),
    "mount": lambda: mount(int(ARGS[0])),
    "others": lambda: others(int(ARGS[0])),
    "below": lambda: below(int(ARGS[0])),
    "file": lambda: file(int(ARGS[0]), ARGS[1]),
    "leader": leader,
    "face": face,
    "argv": lambda: argv(ARGS[1]),
    "descriptors": descriptors,
    "connections": connections,
    "many": many,
    "large": large,
    "slow": slow,
    "bodies": bodies,
    "refusals": refusals,
}
os.setsid()
try:
    more = VERBS[VERB]() or {}
except BaseException:
    import traceback

    traceback.print_exc()
    sys.stderr.flush()
    os.killpg(0, signal.SIGKILL)  # whoever it made goes too
print(json.dumps({"rounds": sum(answers.values()), "staged": staged, "served": served, "answers": dict(answers), **more}), flush=True)
