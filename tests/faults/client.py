"""A client that lives through faults: SOCKET ROUNDS PATIENCE. Each round on a connection of its own takes a lease, reads its value again,
renews it and gives it back; what came of each step is one JSON object a line. Every fourth lease is kept until the process ends."""
import json, socket, sys
from exchange import exchange

SOCK, ROUNDS, PATIENCE = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])


def ask(s, method, path, body=""):
    status, _, body = exchange(s, method, path, body)
    return status, body


def say(step, status, body):
    lease = body.get("lease", {}).get("id")
    print(json.dumps({"step": step, "status": status, "lease": lease, "value": body.get("secret", {}).get("value"),
                      "code": body.get("error", {}).get("code"), "why": body.get("why")}), flush=True)


for n in range(ROUNDS):
    step = "connect"
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(SOCK)
            step = "issue"
            status, body = ask(s, "POST", "/v1/leases", '{"secret":"app/one"}')
            say(step, status, body)
            if status != 201:
                continue
            at = "/v1/leases/" + body["lease"]["id"]
            for step, method, path in [("read", "GET", at + "/secret"), ("renew", "POST", at + "/renew")]:
                say(step, *ask(s, method, path))
            if n % 4 != 3:
                step = "end"
                say(step, *ask(s, "DELETE", at))
    except socket.timeout:
        say(step, 0, {"why": "no answer"})
    except OSError as error:
        say(step, 0, {"why": str(error)})
print(json.dumps({"step": "done"}), flush=True)
sys.stdin.readline()
