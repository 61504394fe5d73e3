"""One request and its answer on a connection that stays: for scripts that lie beside this one."""
import json


def exchange(s, method, path, body=""):
    """The answer's status, whether the connection is closed after it, and its JSON. An end before it is a `ConnectionError`."""
    body = body.encode()
    s.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    def more():
        piece = s.recv(65536)
        if not piece:
            raise ConnectionError("closed before its answer was whole")
        return piece

    data = b""
    while b"\r\n\r\n" not in data:
        data += more()
    head, body = data.split(b"\r\n\r\n", 1)
    head = head.lower()
    length = int([line for line in head.split(b"\r\n") if line.startswith(b"content-length:")][0].split(b":")[1])
    while len(body) < length:
        body += more()
    return int(head[9:12]), b"connection: close" in head, json.loads(body)
