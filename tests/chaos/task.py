"""A task of the chaos tests: says in an audit file that it runs, writes streams that can be made again, ends.

task.py AUDIT CODE FAILURES STDOUT STDERR PIECES PAUSE_MS [stubborn] [daemon] [until=FILE]

Lines of AUDIT/<job>.audit, each written at once: `start|end GANG RANK PID BOOT_NS [CODE]`, and `overlap GANG
RANK OTHER_GANG OTHER_RANK` if an attempt of another gang of the job lives: each holds a lock while it does.
"""
import fcntl
import glob
import os
import signal
import struct
import subprocess
import sys
import time

audit, code, failures, *sizes = sys.argv[1:8]
extras = sys.argv[8:]
size_out, size_err, pieces, pause_ms = map(int, sizes)
job, gang, rank = os.environ["TRAINYARD_JOB"], os.environ["TRAINYARD_GANG"], os.environ.get("RANK", "0")
base = f"{audit}/{job}"
log = os.open(f"{base}.audit", os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)


def say(*words):
    os.write(log, (" ".join(str(word) for word in words) + "\n").encode())


def stamp(kind, *more):
    say(kind, gang, rank, os.getpid(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), *more)


def noise(name, length):
    """xorshift64 from the FNV-1a hash of a name."""
    mask, x = (1 << 64) - 1, 0xCBF29CE484222325
    for byte in name.encode():
        x = (x ^ byte) * 0x100000001B3 & mask
    words = []
    for _ in range((length + 7) // 8):
        x ^= x << 13 & mask
        x ^= x >> 7
        x ^= x << 17 & mask
        words.append(x)
    return struct.pack(f"<{len(words)}Q", *words)[:length]


def write(fd, data):
    while data:
        data = data[os.write(fd, data):]


stamp("start")
if "stubborn" in extras:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
own = os.open(f"{base}.{gang}.{rank}.lock", os.O_CREAT | os.O_RDWR, 0o600)
fcntl.flock(own, fcntl.LOCK_EX)
for path in glob.glob(f"{base}.*.lock"):
    other_gang, other_rank = path.split(".")[-3:-1]
    if other_gang != gang:
        other = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            say("overlap", gang, rank, other_gang, other_rank)
        os.close(other)
if "daemon" in extras:
    quiet = subprocess.DEVNULL
    subprocess.Popen(["sleep", "86400"], start_new_session=True, cwd=audit, env={}, stdin=quiet, stdout=quiet, stderr=quiet)
ends = [line.split() for line in os.pread(log, 1 << 20, 0).decode().splitlines() if line.startswith("end ")]
if rank == "0" and sum(words[2] == rank for words in ends) < int(failures):
    code = "7"
elif rank != "0":
    code = "0"
streams = [(fd, noise(f"{job}/{gang}/{rank}/{fd}", size)) for fd, size in ((1, size_out), (2, size_err))]
count = os.open(f"{base}.{gang}.{rank}.count", os.O_CREAT | os.O_RDWR, 0o600)
for piece in range(pieces):
    for fd, data in streams:
        write(fd, data[len(data) * piece // pieces:len(data) * (piece + 1) // pieces])
    os.pwrite(count, b"%08d" % (piece + 1), 0)
    time.sleep(pause_ms / 1000)
for extra in extras:
    while extra.startswith("until=") and not os.path.exists(extra[6:]):
        time.sleep(0.02)
stamp("end", code)
os._exit(int(code))
