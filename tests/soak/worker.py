"""A workload of the soak: METHOD PATH [BODY] a line in, one JSON object a line out. It outlives the daemon and connects anew."""
import json, socket, sys

door = None


def talk(method, path, body=""):
    global door
    if door is None:
        door = socket.socket(socket.AF_UNIX)
        door.settimeout(30)
        door.connect(sys.argv[1])
    body = body.encode()
    door.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    data = b""
    while b"\r\n\r\n" not in data:
        more = door.recv(65536)
        if not more:
            raise ConnectionError("closed")
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    length = int([l for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:")][0].split(b":")[1])
    while len(body) < length:
        more = door.recv(65536)
        if not more:
            raise ConnectionError("closed")
        body += more
    if b"connection: close" in head.lower():
        door = None
    return {"status": int(head[9:12]), "body": json.loads(body)}


print(json.dumps({"status": 1}), flush=True)
for line in sys.stdin:
    if line == "leave\n":
        print(json.dumps({"status": 1}), flush=True)
        break
    try:
        answer = talk(*line.split())
    except OSError as error:  # whether it was done is not known; it is not asked twice
        door = None
        answer = {"status": 0, "body": {"error": {"code": "closed", "why": str(error)}}}
    print(json.dumps(answer), flush=True)
