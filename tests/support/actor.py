"""What test processes do: one verb each, answers as one JSON object a line on standard output."""
import ctypes, json, os, socket, sys, time

SOCK, VERB, ARGS = sys.argv[1], sys.argv[2], sys.argv[3:]


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(15)
    s.connect(SOCK)
    return s


def request(method, path, body="", headers=""):
    body = body.encode()
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


def answer(s):
    data = b""
    while b"\r\n\r\n" not in data:
        more = s.recv(65536)
        if not more:
            return {"status": 0, "body": {"error": {"code": "closed"}}}
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    length = int([l for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:")][0].split(b":")[1])
    while len(body) < length:
        body += s.recv(65536)
    return {"status": int(head[9:12]), "body": json.loads(body)}


def ask(s, method, path, body="", headers=""):
    try:
        s.sendall(request(method, path, body, headers))
        return answer(s)
    except (ConnectionError, socket.timeout) as error:
        return {"status": 0, "body": {"error": {"code": "closed", "why": str(error)}}}


def say(value):
    value["pid"] = os.getpid()
    print(json.dumps(value), flush=True)


def wait():
    sys.stdin.readline()


def drop(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


if VERB == "call":  # METHOD PATH [BODY]: one request
    say(ask(connect(), *ARGS))
elif VERB in ("hold", "fd"):  # BODY: take a lease, do as told; or go on with a connection of before an exec
    if VERB == "fd":
        s = socket.socket(fileno=int(ARGS[0]))
        s.settimeout(15)
        say({"status": 1})
    else:
        try:
            s = connect()
        except OSError:
            say({"status": 0, "body": {}})
            sys.exit()
        say(ask(s, "POST", "/v1/leases", ARGS[0]))
    for line in sys.stdin:
        words = line.split()
        if words[0] == "call":
            say(ask(s, *words[1:]))
        elif words[0] == "call-anew":  # on a connection of its own: the daemon is another
            say(ask(connect(), *words[1:]))
        elif words[0] == "exec":
            os.execv(words[1], words[1:])
        elif words[0] == "exec-actor":  # the same script in another program, with the same argument
            os.execv(words[1], [words[1], "-B", sys.argv[0], SOCK, "wait"])
        elif words[0] == "exec-fd":  # another program, the same connection
            s.setblocking(True)
            os.set_inheritable(s.fileno(), True)
            os.execv(words[1], [words[1], "-B", sys.argv[0], SOCK, "fd", str(s.fileno())])
        elif words[0] == "fork-call":  # the same request from a child on a connection of its own
            if os.fork() == 0:
                say(ask(connect(), *words[1:]))
                os._exit(0)
            os.wait()
        elif words[0] == "contained-call":  # the same from a child in a user namespace of its own, and what that child is worth
            if os.fork() == 0:
                ctypes.CDLL(None).unshare(0x10000000)
                worth = ask(connect(), "GET", "/v1/whoami")["body"]["assurance"]
                say({"assurance": worth, **ask(connect(), *words[1:])})
                os._exit(0)
            os.wait()
        elif words[0] == "setuid":
            drop(int(words[1]))
            say(ask(s, *words[2:]))
        elif words[0] == "end":
            break
elif VERB == "wait":
    say({"status": 1})
    wait()
elif VERB == "script":  # SCRIPT FILE: a shell script, and then nothing until that file is there
    import subprocess
    subprocess.run(["/bin/sh", ARGS[0]], check=True)
    until = time.monotonic() + 150
    while not os.path.exists(ARGS[1]) and time.monotonic() < until:
        time.sleep(0.05)
elif VERB == "prefork":  # HELD OWN: a server that holds one lease for all its workers, each of which takes one of its own as well
    os.setsid()
    held = ask(connect(), "POST", "/v1/leases", ARGS[0])
    say(held)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "fork":
            if os.fork() == 0:
                s = connect()
                read = ask(s, "GET", f"/v1/leases/{held['body']['lease']['id']}/secret")
                say({"read": read, **ask(s, "POST", "/v1/leases", ARGS[1])})
                time.sleep(600)  # until it is recycled; not for ever, should the test die
                os._exit(0)
        elif words[0] == "recycle":
            os.kill(int(words[1]), 9)
            os.waitpid(int(words[1]), 0)
            say({"status": 1})
elif VERB == "child":  # PROGRAM VERB ARGS: what a descendant gets; double fork and setsid if asked
    mode, program, rest = ARGS[0], ARGS[1], ARGS[2:]
    r, w = os.pipe()
    if os.fork() == 0:
        if mode == "orphan":
            os.setsid()
            between = os.getpid()
            if os.fork() != 0:
                os._exit(0)
            while os.getppid() == between:
                time.sleep(0.005)
        os.dup2(w, 1)
        os.execv(program, [program, "-B", sys.argv[0], SOCK, *rest])
    os.close(w)
    if mode == "orphan":
        os.wait()
    print(os.fdopen(r).read(), end="", flush=True)
elif VERB == "beneath":  # PROGRAM VERB ARGS: a descendant that is spoken to through this process's own input and output
    pid = os.fork()
    if pid == 0:
        os.execv(ARGS[0], [ARGS[0], "-B", sys.argv[0], SOCK, *ARGS[1:]])
    os.wait()
elif VERB == "many":  # N BODY: take so many leases, then do as told on the same connection; the first answer is the last lease's
    s = connect()
    for n in range(int(ARGS[0])):
        last = ask(s, "POST", "/v1/leases", ARGS[1])
    say(last)
    for line in sys.stdin:
        say(ask(s, *line.split()[1:]))
elif VERB == "descriptors":  # a request with a passed descriptor
    s = connect()
    text = request("GET", "/v1/whoami")
    try:
        socket.send_fds(s, [text], [0])
        say(answer(s))
    except OSError as error:
        say({"status": 0, "refused": str(error)})
elif VERB == "raw":  # HEX: these bytes, and whatever comes back
    s = connect()
    s.settimeout(3)
    try:
        s.sendall(bytes.fromhex(ARGS[0]))
        s.shutdown(socket.SHUT_WR)
        data = b""
        while more := s.recv(65536):
            data += more
    except OSError:
        pass
    say({"status": int(data[9:12]) if data.startswith(b"HTTP/1.1 ") else 0})
elif VERB == "nonce":  # BODY: the challenge of kernels that do not pin at connect
    s = connect()
    first = ask(s, "POST", "/v1/leases", ARGS[0])
    nonce = first["body"].get("error", {}).get("nonce") or ""
    other = ask(connect(), "POST", "/v1/leases", ARGS[0], f"claviger-nonce: {nonce}\r\n")
    again = ask(s, "POST", "/v1/leases", ARGS[0], f"claviger-nonce: {nonce}\r\n")
    say({"first": first["status"], "code": first["body"].get("error", {}).get("code"), "other": other["status"], **again})
elif VERB == "led":  # BODY: a child watches; then its session's leader takes a lease, when told
    os.setsid()
    if os.fork():
        wait()
        ask(connect(), "POST", "/v1/leases", ARGS[0])
        os.wait()
        sys.exit()
    os.execv("/proc/self/exe", [sys.executable, "-B", sys.argv[0], SOCK, "watch"])
elif VERB == "deaf":  # N BODY: so many leases and a watch that is not read; all are renewed, or what was told is read after all, when told
    s, w = connect(), connect()
    leases = []
    for n in range(int(ARGS[0])):
        last = ask(s, "POST", "/v1/leases", ARGS[1])
        leases.append(last["body"]["lease"]["id"])
    w.sendall(request("GET", "/v1/watch"))
    say(last)
    for line in sys.stdin:
        if line.strip() == "renew":
            done = [ask(s, "POST", f"/v1/leases/{lease}/renew") for lease in leases]
            say({"renewed": {one["body"]["lease"]["id"]: one["body"]["lease"]["expires"] for one in done}})
        elif line.strip() == "listen":
            w.settimeout(5)
            data = b""
            try:
                while more := w.recv(65536):
                    data += more
            except socket.timeout:
                pass
            events = [json.loads(l[6:]) for l in data.decode().splitlines() if l.startswith("data: ")]
            told = [event for event in events if "expires" in event]
            say({"events": len(told), "last": {event["id"]: event["expires"] for event in told}})
elif VERB == "watch":  # [BODY]: a lease if one is asked for, then what is told, an event a line; calls meanwhile, not answered to
    s = connect()
    import threading

    def calls():
        rest = b""
        while more := os.read(0, 65536):
            *whole, rest = (rest + more).split(b"\n")
            for line in whole:
                words = line.decode().split()
                if words[0] == "call":
                    ask(connect(), *words[1:])

    # A child's input is its parent's.
    if ARGS:
        threading.Thread(target=calls, daemon=True).start()
    for body in ARGS:
        say(ask(s, "POST", "/v1/leases", body))
    s.settimeout(None)
    s.sendall(request("GET", "/v1/watch"))
    name, events = "", 0
    with s.makefile("r") as lines:
        for line in lines:
            word, _, rest = line.strip().partition(": ")
            if word == "event":
                name, events = rest, events + 1
            elif word == "data":
                say({"event": name, "data": json.loads(rest)})
            elif word == "" and rest:
                say({"comment": rest})
    say({"over": events})
