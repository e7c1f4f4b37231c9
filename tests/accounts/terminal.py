"""Runs a program on a terminal of its own, as a person would: waits for a text, then types.

usage: terminal.py '[["text to wait for", "what to type"], ...]' program arguments...
Prints all that the program printed, and ends with its exit code. Only the standard library.
"""

import json
import os
import pty
import select
import sys
import time

steps, program = json.loads(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execvp(program[0], program)
seen, deadline = b"", time.monotonic() + 60
while time.monotonic() < deadline:
    if steps and steps[0][0].encode() in seen:
        seen = b""
        os.write(terminal, steps.pop(0)[1].encode())
    if not select.select([terminal], [], [], 0.05)[0]:
        continue
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    seen += piece
    os.write(1, piece)
else:
    os.kill(pid, 9)
    os.write(1, b"\nno end in time; waited for " + json.dumps(steps).encode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) or (1 if steps else 0))
