"""A workload of the soak: METHOD PATH [BODY] a line in, one JSON object a line out. It outlives the daemon and connects anew."""
import json, socket, sys
from exchange import exchange

door = None


def talk(method, path, body=""):
    global door
    if door is None:
        door = socket.socket(socket.AF_UNIX)
        door.settimeout(30)
        door.connect(sys.argv[1])
    status, closed, body = exchange(door, method, path, body)
    if closed:
        door = None
    return {"status": status, "body": body}


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
