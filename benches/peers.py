#!/usr/bin/env python3
"""Times Trainyard beside its peers in one run and prints ratios. See README.md in this folder.

Needs only the standard library; HyperQueue and mpirun are measured where they are installed.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

GROUP = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/trainyard/providers/Microsoft.BatchAI"
CLUSTER = f"{GROUP}/workspaces/default/clusters/default"
JOBS = f"{GROUP}/workspaces/default/experiments/default/jobs"
QUERY = "?api-version=2018-05-01"
HANGS_AFTER_S = 60


class Yard:
    """`trainyard up` on a port and folder of its own."""

    def __init__(self, binary, nodes):
        self.state = Path(tempfile.mkdtemp(prefix="yard-bench-"))
        env = dict(os.environ, XDG_CONFIG_HOME=str(self.state / "config"))
        command = [binary, "up", "--nodes", str(nodes), "--listen", "127.0.0.1:0", "--state-dir", str(self.state / "state")]
        self.log = open(self.state / "up.log", "w")
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log)
        config = self.state / "config" / "trainyard" / "client.json"
        deadline = time.monotonic() + 30
        while not config.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"trainyard up did not start:\n{(self.state / 'up.log').read_text()}")
            time.sleep(0.02)
        settings = json.loads(config.read_text())
        self.host = settings["coordinator"].removeprefix("http://")
        self.token = settings["token"]
        while len(self.get("/api/v1/nodes")["value"]) < nodes:
            time.sleep(0.02)

    def connection(self):
        return http.client.HTTPConnection(self.host, timeout=300)

    def headers(self):
        return {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}

    def get(self, path):
        connection = self.connection()
        connection.request("GET", path, headers=self.headers())
        answer = connection.getresponse()
        body = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"GET {path}: {answer.status} {body[:300]}")
        return json.loads(body)

    def put(self, connection, name, properties):
        body = dict(properties, cluster={"id": CLUSTER}, stdOutErrPathPrefix="$AZ_BATCHAI_JOB_TEMP")
        connection.request("PUT", f"{JOBS}/{name}{QUERY}", json.dumps({"properties": body}), self.headers())
        answer = connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 202):
            raise RuntimeError(f"PUT {name}: {answer.status} {text[:300]}")

    def events(self):
        """Yields (kind, data) from now on; the first item comes once the stream is open."""
        connection = self.connection()
        connection.request("GET", "/api/v1/events", headers=self.headers())
        answer = connection.getresponse()
        yield "open", None
        for line in answer:
            if line.startswith(b"data:"):
                data = json.loads(line[5:])
                yield data["kind"], data

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()
        shutil.rmtree(self.state, ignore_errors=True)


def custom(line):
    return {"nodeCount": 1, "customToolkitSettings": {"commandLine": line}}


def ranks(count):
    return {
        "nodeCount": 1,
        "pyTorchSettings": {"pythonScriptFilePath": "/", "pythonInterpreterPath": "/bin/true", "processCount": count},
    }


def run_jobs(yard, jobs, connections=1):
    """Submits all jobs; returns (seconds from first PUT to last end, per job (start, done) in seconds)."""
    prefix = uuid.uuid4().hex[:8]
    names = {f"{prefix}-{i}": job for i, job in enumerate(jobs)}
    submitted, started, ended, bad = {}, {}, {}, []
    is_open, over = threading.Event(), threading.Event()

    def watch():
        for kind, data in yard.events():
            now = time.perf_counter()
            if kind == "open":
                is_open.set()
                continue
            name = data.get("job")
            if name not in names:
                continue
            if kind == "taskStarted":
                started[name] = now
            elif kind == "jobEnded":
                ended[name] = now
                if data.get("executionState", data.get("detail", {}).get("executionState")) != "succeeded":
                    bad.append(data)
                if len(ended) == len(names):
                    over.set()
                    return

    threading.Thread(target=watch, daemon=True).start()
    is_open.wait(30)
    items = list(names.items())

    def submit(part):
        connection = yard.connection()
        for name, job in part:
            submitted[name] = time.perf_counter()
            yard.put(connection, name, job)

    begin = time.perf_counter()
    threads = [threading.Thread(target=submit, args=(items[i::connections],)) for i in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not over.wait(600):
        sys.exit(f"only {len(ended)} of {len(names)} jobs ended")
    if bad:
        sys.exit(f"{len(bad)} jobs did not succeed, the first: {bad[0]}")
    total = max(ended.values()) - begin
    return total, [(started.get(n, ended[n]) - submitted[n], ended[n] - submitted[n]) for n in names]


def timed(command):
    """Seconds of a shell command in a list; an empty list if it hangs (mpirun does at times, after its ranks ended)."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, shell=True, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        code = process.wait(HANGS_AFTER_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"  hung for {HANGS_AFTER_S} s and was ended: {command}")
        return []
    if code != 0:
        sys.exit(f"exit code {code}: {command}")
    return [time.perf_counter() - begin]


def spread(values, unit=1000.0):
    return "/".join(f"{v * unit:.2f}" for v in (min(values), statistics.median(values), max(values)))


def report(title, ours, peers):
    print(f"\n{title}")
    print(f"  {'trainyard':34} {spread(ours)} ms (min/median/max)")
    for name, values in peers:
        if values:
            ratio = statistics.median(ours) / statistics.median(values)
            print(f"  {name:34} {spread(values)} ms; ours takes {ratio:.2f} x its time")
        else:
            print(f"  {name:34} not installed here, or it hung")


class HyperQueue:
    def __init__(self, cores):
        import hyperqueue
        from hyperqueue.cluster import LocalCluster, WorkerConfig

        self.module = hyperqueue
        self.folder = tempfile.mkdtemp(prefix="hq-bench-")
        self.cluster = LocalCluster(self.folder, WorkerConfig(cores=cores))
        self.client = self.cluster.client()

    def run(self, jobs, tasks):
        submitted = []
        begin = time.perf_counter()
        for _ in range(jobs):
            job = self.module.Job()
            for _ in range(tasks):
                job.program(["/bin/true"], stdout=None, stderr=None)
            submitted.append(self.client.submit(job))
        for job in submitted:
            self.client.wait_for_jobs([job])
        return time.perf_counter() - begin

    def stop(self):
        self.cluster.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def resident_kib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, help="the release binary `trainyard`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--only", default="", help="comma list: latency,throughput,gang,log,idle")
    args = parser.parse_args()
    wanted = set(args.only.split(",")) if args.only else {"latency", "throughput", "gang", "log", "idle"}

    try:
        hq = HyperQueue(2)
    except ImportError:
        hq = None
    mpirun = shutil.which("mpirun")
    mpi = "mpirun --allow-run-as-root --oversubscribe --mca btl self,vader --mca plm isolated"
    yard = Yard(args.binary, 2)
    try:
        if "latency" in wanted:
            run_jobs(yard, [custom("true")])
            times, hq_times = [], []
            for _ in range(50):
                times += run_jobs(yard, [custom("true")])[1]
                if hq:
                    hq_times.append(hq.run(1, 1))
            report("submit to start of one no-op job", [t[0] for t in times], [])
            report("submit to done of one no-op job", [t[1] for t in times], [("hyperqueue, no journal", hq_times)])
        if "throughput" in wanted:
            ours, xargs, hq_jobs, hq_tasks = [], [], [], []
            for _ in range(args.rounds):
                ours.append(run_jobs(yard, [custom("true")] * args.jobs, connections=2)[0])
                xargs.extend(timed(f"seq {args.jobs} | xargs -P2 -n1 /bin/true"))
                if hq:
                    hq_jobs.append(hq.run(args.jobs, 1))
                    hq_tasks.append(hq.run(1, args.jobs))
            peers = [("xargs -P2", xargs), ("hyperqueue, one task a job", hq_jobs), ("hyperqueue, one job", hq_tasks)]
            report(f"{args.jobs} no-op jobs on two slots", ours, peers)
        if "gang" in wanted:
            for size in (8, 64):
                ours, mpi_times, xargs = [], [], []
                for _ in range(max(5, args.rounds)):
                    ours.append(run_jobs(yard, [ranks(size)])[0])
                    if mpirun:
                        mpi_times.extend(timed(f"{mpi} -np {size} /bin/true"))
                    xargs.extend(timed(f"seq {size} | xargs -P{size} -n1 /bin/true"))
                report(f"gang of {size}, submit to done", ours, [("mpirun", mpi_times), (f"xargs -P{size}", xargs)])
        if "log" in wanted:
            ours, tee = [], []
            for _ in range(args.rounds):
                ours.append(run_jobs(yard, [custom("head -c 1073741824 /dev/zero")])[0])
                with tempfile.TemporaryDirectory() as folder:
                    tee.extend(timed(f"head -c 1073741824 /dev/zero | tee {folder}/file | wc -c"))
            report("1 GiB of log, submit to done", ours, [("tee | wc -c", tee)])
        if "idle" in wanted:
            pid, seconds = yard.process.pid, 20
            time.sleep(3)
            before = cpu_seconds(pid)
            time.sleep(seconds)
            used = (cpu_seconds(pid) - before) / seconds * 100
            print(f"\nidle: coordinator and two agents in one process: {resident_kib(pid) / 1024:.1f} MiB resident, {used:.2f} % of a core")
    finally:
        yard.stop()
        if hq:
            hq.stop()


if __name__ == "__main__":
    main()
