"""Runs a program on a terminal of its own, as a person would: waits for a text, then types.

usage: terminal.py '[["text to wait for", "what to type"], ...]' program arguments...
Prints all that the program printed, and ends with its exit code. Only the standard library.
"""

import json
import os
import pty
import select
import sys
import termios
import time

steps, program = json.loads(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execvp(program[0], program)
seen, asked, deadline = b"", None, time.monotonic() + 60


def listens():
    """Whether the program reads keys. What comes before that is shown, and may be thrown away: a person
    is never so fast. A program that reads whole lines is given a second."""
    return not termios.tcgetattr(terminal)[3] & termios.ECHO or time.monotonic() - asked > 1


while time.monotonic() < deadline:
    if steps and steps[0][0].encode() in seen:
        asked = asked or time.monotonic()
        if listens():
            seen, asked = b"", None
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
