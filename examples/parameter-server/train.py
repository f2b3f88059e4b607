"""Trains a small network on handwritten digits with parameter servers and workers, in Python and numpy alone.

The same job as examples/tensorflow-ps with everything visible: the parameters are one vector of 32-bit floats, cut
into as many slices as there are parameter servers. A worker pulls all slices, computes the gradient of one batch, and
pushes its slices back without waiting for the other workers; the server adds them as they come (asynchronous
stochastic gradient descent with momentum). Worker 0 initialises the parameters and measures the result.

A message is 13 bytes of header (kind: 1 byte, step: 8, length of the body: 4, in network order), then the body:
little-endian floats. A server answers each message with one of its own, in order. It never ends by itself.
"""

import argparse
import csv
import gzip
import os
import signal
import socket
import socketserver
import struct
import sys
import threading
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # the matrices are small: more threads only get in each other's way

import numpy as np

PIXELS, HIDDEN, CLASSES = 64, 64, 10
SHAPES = [(PIXELS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,)]
PARAMETERS = sum(int(np.prod(shape)) for shape in SHAPES)
BATCH = 64
MOMENTUM = 0.9

HEADER = struct.Struct("!BQI")
FLOAT = np.dtype("<f4")
BODY_LIMIT = PARAMETERS * FLOAT.itemsize
INIT, PULL, PUSH, VALUES, NOT_READY, REFUSED = range(1, 7)

CONNECT_SECONDS = 120  # how long a worker waits for the servers to come up, and for the chief's first values


def say(text):
    print(text, flush=True)


def receive(connection, size):
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            raise ConnectionError("the other side has closed the connection")
        view = view[count:]
    return bytes(data)


def send_message(connection, kind, step=0, body=b""):
    connection.sendall(HEADER.pack(kind, step, len(body)) + body)


def receive_message(connection):
    kind, step, length = HEADER.unpack(receive(connection, HEADER.size))
    if length > BODY_LIMIT:
        raise ConnectionError(f"a message of {length} bytes: more than all parameters ({BODY_LIMIT})")
    return kind, step, receive(connection, length)


# --- parameter server ---------------------------------------------------------------------------------------------


class Slice:
    """The part of the parameters that one server holds."""

    def __init__(self, size, learning_rate):
        self.size = size
        self.learning_rate = learning_rate
        self.lock = threading.Lock()
        self.values = None
        self.velocity = np.zeros(size, FLOAT)
        self.step = 0

    def answer(self, kind, body):
        """Applies one message; returns kind, step and body of the reply."""
        if kind in (INIT, PUSH) and len(body) != self.size * FLOAT.itemsize:
            return REFUSED, 0, b"wrong length"
        with self.lock:
            if kind == INIT:
                if self.values is None:  # a chief that was started again goes on with what is there
                    self.values = np.frombuffer(body, FLOAT).copy()
                return VALUES, self.step, b""
            if self.values is None:
                return NOT_READY, 0, b""
            if kind == PULL:
                return VALUES, self.step, self.values.tobytes()
            if kind == PUSH:
                self.velocity *= MOMENTUM
                self.velocity += np.frombuffer(body, FLOAT)
                self.values -= self.learning_rate * self.velocity
                self.step += 1
                return VALUES, self.step, b""
            return REFUSED, 0, b"unknown kind"


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                kind, _, body = receive_message(self.request)
                send_message(self.request, *self.server.slice.answer(kind, body))
        except ConnectionError:
            pass  # a worker that is done, or has died, takes nothing with it


def serve(options, addresses):
    start, end = slices(len(addresses))[options.task_index]
    with Server(addresses[options.task_index], Connection) as server:
        server.slice = Slice(end - start, options.learning_rate)
        host, port = server.server_address
        say(f"parameter server {options.task_index} on {host}:{port}: parameters {start}..{end} of {PARAMETERS}")
        server.serve_forever()


# --- worker -------------------------------------------------------------------------------------------------------


class Parameters:
    """What a worker sees of all parameter servers together."""

    def __init__(self, addresses):
        self.slices = slices(len(addresses))
        self.connections = [connect(address) for address in addresses]

    def exchange(self, kind, vector=None):
        """Sends one message to each server, then collects the replies."""
        for connection, (start, end) in zip(self.connections, self.slices):
            send_message(connection, kind, 0, b"" if vector is None else vector[start:end].tobytes())
        replies = [receive_message(connection) for connection in self.connections]
        for reply, _, body in replies:
            if reply == REFUSED:
                raise ConnectionError(f"a parameter server refused a message: {body.decode()}")
        return replies

    def initialise(self, vector):
        self.exchange(INIT, vector)

    def pull(self):
        """All parameters and the step; waits for the chief's first values."""
        give_up = time.monotonic() + CONNECT_SECONDS
        while True:
            replies = self.exchange(PULL)
            if all(kind == VALUES for kind, _, _ in replies):
                return np.concatenate([np.frombuffer(body, FLOAT) for _, _, body in replies]), replies[0][1]
            if time.monotonic() > give_up:
                raise TimeoutError("worker 0 has not initialised the parameters")
            time.sleep(0.02)

    def push(self, gradient):
        """Returns the step after it; server 0 counts."""
        return self.exchange(PUSH, gradient)[0][1]


def connect(address):
    give_up = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            connection = socket.create_connection(address, timeout=CONNECT_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except OSError as error:
            if time.monotonic() > give_up:
                raise ConnectionError(f"no parameter server at {address[0]}:{address[1]}: {error}") from error
            time.sleep(0.05)


def slices(count):
    """Where each server's part starts and ends: parts differ by one parameter at most."""
    bounds = [PARAMETERS * index // count for index in range(count + 1)]
    return list(zip(bounds, bounds[1:]))


def unpack(vector):
    parts, start = [], 0
    for shape in SHAPES:
        end = start + int(np.prod(shape))
        parts.append(vector[start:end].reshape(shape))
        start = end
    return parts


def first_values():
    random = np.random.default_rng(0)
    parts = []
    for shape in SHAPES:
        limit = (6.0 / sum(shape)) ** 0.5 if len(shape) == 2 else 0.0
        parts.append(random.uniform(-limit, limit, shape).astype(FLOAT).ravel())
    return np.concatenate(parts)


def forward(vector, images):
    weights1, biases1, weights2, biases2 = unpack(vector)
    hidden = np.maximum(images @ weights1 + biases1, 0)
    scores = hidden @ weights2 + biases2
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, scores / scores.sum(axis=1, keepdims=True)


def loss_and_gradient(vector, images, labels):
    _, _, weights2, _ = unpack(vector)
    hidden, chances = forward(vector, images)
    rows = np.arange(len(labels))
    loss = -np.log(chances[rows, labels] + 1e-9).mean()
    error = chances
    error[rows, labels] -= 1
    error /= len(labels)
    back = (error @ weights2.T) * (hidden > 0)
    parts = [images.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
    return loss, np.concatenate([part.ravel() for part in parts]).astype(FLOAT)


def load(directory):
    """Training and test images (rows of 64 pixels, 0..1) with their labels; every process makes the same split."""
    with gzip.open(os.path.join(directory, "digits.csv.gz"), "rt", newline="") as file:
        table = np.array([[int(cell) for cell in row] for row in csv.reader(file)])
    images, labels = (table[:, :-1] / 16.0).astype(FLOAT), table[:, -1]
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = np.split(order, [len(labels) // 5])
    return images[train], labels[train], images[test], labels[test]


def work(options, addresses):
    chief = options.task_index == 0
    images, labels, test_images, test_labels = load(options.data_dir)
    random = np.random.default_rng(1 + options.task_index)  # each worker sees batches of its own
    parameters = Parameters(addresses)
    if chief:
        parameters.initialise(first_values())

    metrics, own_steps, next_line = [], 0, 0
    started = time.monotonic()
    vector, step = parameters.pull()
    while step < options.train_steps:
        batch = random.integers(len(labels), size=BATCH)
        loss, gradient = loss_and_gradient(vector, images[batch], labels[batch])
        step = parameters.push(gradient)
        own_steps += 1
        if step >= next_line:
            say(f"step {step} loss {loss:.4f}")
            metrics.append((step, f"{loss:.4f}"))
            next_line = step - step % 100 + 100
        if options.step_ms > 0:
            time.sleep(options.step_ms / 1000)
        vector, _ = parameters.pull()
    say(f"worker {options.task_index}: {own_steps} steps in {time.monotonic() - started:.1f} s")

    if chief:
        _, chances = forward(vector, test_images)
        accuracy = float((chances.argmax(axis=1) == test_labels).mean())
        if options.checkpoint_dir:
            names = ("weights1", "biases1", "weights2", "biases2")
            np.savez(os.path.join(options.checkpoint_dir, "model.npz"), **dict(zip(names, unpack(vector))))
        if options.log_dir:
            with open(os.path.join(options.log_dir, "metrics.csv"), "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("step", "loss"), *metrics])
        say(f"test accuracy {accuracy:.4f}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job_name", choices=["ps", "worker"], required=True)
    parser.add_argument("--task_index", type=int, required=True)
    parser.add_argument("--ps_hosts", required=True, help="HOST:PORT,... of the parameter servers")
    parser.add_argument("--worker_hosts", help="HOST:PORT,... of the workers; they do not talk to each other")
    parser.add_argument("--data_dir", help="where digits.csv.gz is")
    parser.add_argument("--checkpoint_dir", help="where worker 0 leaves the model")
    parser.add_argument("--log_dir", help="where worker 0 leaves metrics.csv")
    parser.add_argument("--train_steps", type=int, default=2000, help="steps of all workers together")
    parser.add_argument("--num_gpus", type=int, default=0, help="taken for the form's sake; numpy has the CPU only")
    parser.add_argument("--learning_rate", type=float, default=0.02)
    parser.add_argument("--step_ms", type=float, default=0, help="rest after each step, to have time to look on")
    options = parser.parse_args()
    if options.job_name == "worker" and not options.data_dir:
        parser.error("a worker needs --data_dir")
    return options


def address(text):
    host, _, port = text.rpartition(":")
    return host, int(port)


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    addresses = [address(text) for text in options.ps_hosts.split(",")]
    if options.job_name == "ps":
        serve(options, addresses)
    else:
        work(options, addresses)


if __name__ == "__main__":
    sys.exit(main())
