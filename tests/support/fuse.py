"""A file system whose server is hostile: FOLDER FILE LOG PID... It shows FILE as `keeper`. Whatever one of these processes asks of it is
written down and, with HANG=1, never answered. Ends with its standard input."""
import ctypes, os, struct, sys, threading

FOLDER, FILE, LOG, WATCHED = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
HANG = os.environ.get("HANG") == "1"
LIBC = ctypes.CDLL(None, use_errno=True)
CONTENT = open(FILE, "rb").read()
# linux/fuse.h
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, OPENDIR, RELEASEDIR, ACCESS, INTERRUPT, BATCH_FORGET = (
    1, 2, 3, 14, 15, 18, 25, 26, 27, 29, 34, 36, 42)
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if LIBC.mount(b"hostile", FOLDER.encode(), b"fuse", 0, options) != 0:
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")


def attributes(node):
    mode, size = (0o40755, 0) if node == 1 else (0o100755, len(CONTENT))
    return struct.pack("<6Q10I", node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer_to(opcode, node, body):
    """The answer's bytes, or an error's number. Nothing is to be remembered: every question comes here."""
    if opcode == INIT:
        return struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 12, 9, 65536, 1, 16, 0, *[0] * 8)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != b"keeper":
            return 2
        return struct.pack("<4Q2I", 2, 0, 0, 0, 0, 0) + attributes(2)
    if opcode == GETATTR:
        return struct.pack("<Q2I", 0, 0, 0) + attributes(node)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 1, 0, 0)
    if opcode == READ:
        _, offset, size = struct.unpack("<2QI", body[:20])
        return CONTENT[offset : offset + size]
    return b"" if opcode in (RELEASE, FLUSH, RELEASEDIR, ACCESS) else 38


def serve():
    while True:
        try:
            text = os.read(fuse, 1 << 18)
        except OSError:
            return
        _, opcode, unique, node, _, _, thread, _ = struct.unpack("<2I2Q4I", text[:40])
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        if any(os.path.exists(f"/proc/{pid}/task/{thread}") for pid in WATCHED):
            with open(LOG, "a") as log:
                log.write(f"{opcode}\n")
            if HANG:
                continue
        answer = answer_to(opcode, node, text[40:])
        error, answer = (-answer, b"") if isinstance(answer, int) else (0, answer)
        try:
            os.write(fuse, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)
        except OSError:
            pass  # whoever asked is gone


threading.Thread(target=serve, daemon=True).start()
print('{"mounted":true}', flush=True)
sys.stdin.read()
LIBC.umount2(FOLDER.encode(), 1 | 2)
