"""A program for an engine of kind "command" that works, or fails in one of the ways in which programs do.

plugin.py FOLDER: what it makes are files in FOLDER/made, and how it behaves is what FOLDER/mood says: "CALL HOW", or nothing.
"""

import json
import os
import secrets
import signal
import sys
import time

folder = sys.argv[1]
made = os.path.join(folder, "made")
CANARY = "canary-of-a-plugin-8c21"


def mood():
    try:
        call, how = open(os.path.join(folder, "mood")).read().split()
        return call, how
    except (FileNotFoundError, ValueError):
        return None, None


def say(members):
    sys.stdout.write(json.dumps({"version": 1, **members}) + "\n")
    sys.stdout.flush()


def note(text):
    with open(os.path.join(folder, "log"), "a") as log:
        log.write(text + "\n")


def usual(asked):
    lasts = "number" in asked
    # A source that has one value at a time keeps it in one place.
    style = asked["parameters"].get("style", "") if lasts else ""
    alone = style.endswith("alone")
    path = os.path.join(made, "the-one" if alone else asked.get("name", "-"))
    lease = {"name": asked["name"]} if lasts else {"lease": asked.get("lease")}
    match asked["call"]:
        case "rotate":
            # Some sources take what they are given, others make their own.
            value = secrets.token_hex(16) if style.startswith("own") else asked["value"]
            with open(path + ".new", "w") as file:
                file.write(json.dumps({**asked, "value": value}))
            os.rename(path + ".new", path)
            given = {} if value == asked["value"] else {"value": value}
            try:
                extra = json.load(open(os.path.join(folder, "answer")))
            except FileNotFoundError:
                extra = {}
            return {**lease, **given, "attributes": {"user": asked["name"]}, "reference": {"file": asked["name"]}, **extra}
        case "create":
            with open(path, "x") as file:
                file.write(json.dumps(asked))
            extra = asked["parameters"].get("answer", {})
            expires = {"expires": asked["expires"] + asked["parameters"]["later"]} if "later" in asked["parameters"] else {}
            return {**lease, "value": CANARY, "attributes": {"user": asked["name"]}, "reference": {"file": asked["name"]}, **extra, **expires}
        case "renew":
            if not os.path.exists(path):
                return {"error": {"kind": "refused", "message": "it is gone"}}
            return {**lease, **({"expires": asked["expires"] + asked["parameters"]["later"]} if "later" in asked["parameters"] else {})}
        case "revoke":
            found = os.path.exists(path)
            if found:
                os.unlink(path)
            return {**lease, "found": found}
        case "probe":
            alive = os.path.exists(path)
            if alive and "value" in asked:
                alive = json.loads(open(path).read())["value"] == asked["value"]
            return {**lease, "alive": alive}
        case "list":
            return {"names": os.listdir(made)}


def main():
    call, how = mood()
    if how == "deaf":
        # Neither reads nor ends.
        time.sleep(60)
    if how == "early":
        # Answers before it was asked, and goes.
        say({"value": CANARY})
        os._exit(0)
    asked = json.loads(sys.stdin.readline())
    note(f"{asked['call']} {sorted(os.environ)}")
    with open(os.path.join(folder, "calls"), "a") as calls:
        calls.write(json.dumps(asked) + "\n")
    if asked["call"] != call:
        return say(usual(asked))
    match how:
        case "hang":
            time.sleep(60)
        case "made-and-hang":
            usual(asked)
            time.sleep(60)
        case "late":
            # Begins after everybody has stopped waiting.
            time.sleep(float(asked["parameters"]["after"]))
            say(usual(asked))
        case "flood":
            piece = b"x" * 65536
            while True:
                os.write(1, piece)
        case "garbage":
            usual(asked)
            os.write(1, b"\xff\xfe" + CANARY.encode() + b"\x00{]")
        case "truncated":
            usual(asked)
            os.write(1, json.dumps({"version": 1, "lease": asked.get("lease"), "value": CANARY}).encode()[:-3])
        case "two":
            say(usual(asked))
            say({"lease": asked.get("lease"), "value": "another"})
        case "nothing":
            usual(asked)
        case "killed":
            usual(asked)
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            usual(asked)
            print("Traceback of a program", file=sys.stderr)
            os._exit(3)
        case "daemon":
            # Answers, and leaves a child behind that keeps the connection.
            there, noted = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    note(f"child {os.getpid()}")
                    os.write(noted, b"1")
                    time.sleep(60)
                os._exit(0)
            # Else it may be ended with its unit before it has said who it is.
            os.read(there, 1)
            say(usual(asked))
        case "other-lease":
            say({**usual(asked), "lease": "lease-00000000000000000000000000"})
        case "other-name":
            say({**usual(asked), "name": asked["name"][:-1] + "9"})
        case "proposal-in-error":
            say({"error": {"kind": "refused", "message": f"cannot set {asked['value']}"}})
        case "credulous":
            say({"name": asked["name"], "alive": True})
        case "dead":
            say({"name": asked["name"], "alive": False})
        case "secret-in-error":
            say({"error": {"kind": "refused", "message": f"cannot end {CANARY}\n\x1b[31mlevel=error"}})
        case "piece-in-error":
            say({"error": {"kind": "refused", "message": "x" * 190 + CANARY}})
        case "shout":
            say({"error": {"kind": "setup", "message": "a\nb\x1b[31m\u202e" + "x" * 60000}})
        case "look":
            # Says where it is and what it can reach.
            status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
            seen = {name: status[name].split()[0] for name in ("Uid", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")}
            for place in ("/var/lib/claviger", "/etc/claviger/clavigerd.toml", "/run/claviger/workload.sock", "/root", "/proc/1/environ"):
                try:
                    os.stat(place) if place.endswith("sock") else open(place) if "." in place or "proc" in place else os.listdir(place)
                    seen["reached"] = seen.get("reached", "") + place + " "
                except OSError:
                    pass
            seen["net"] = " ".join(sorted(line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line))
            seen["env"] = " ".join(sorted(os.environ))
            say({**usual(asked), "attributes": seen})
        case "unreachable" | "refused" | "setup" | "no-value":
            say({"error": {"kind": how, "message": "it rains"}})
        case "all":
            # Goes by no name.
            for name in os.listdir(made):
                os.unlink(os.path.join(made, name))
            say({"name": asked["name"], "found": True})
        case "stays":
            # Says that it is gone, and it is not.
            say({**({"name": asked["name"]} if "number" in asked else {"lease": asked["lease"]}), "found": True})
        case "others":
            say({"names": ["clv_0000000000000000_" + "0" * 26, "../../etc/passwd", "", *os.listdir(made)]})
        case "wrong-numbers":
            names = os.listdir(made)
            begin = next(name[:-13] for name in names)
            wrong = ["9999999999999", "9999999999998", "0000001000002", "18446744073709551615", "10000000000000", "7", "+000000000007", "0000000000000", "000000000007x"]
            say({"names": [*names, *(begin + number for number in wrong)]})


main()
