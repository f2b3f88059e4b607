"""Trains a small network on handwritten digits with parameter servers and workers (TensorFlow, between-graph).

Each worker builds its own graph of the same model. The variables lie on the parameter servers; workers read them,
compute gradients of their own batches and send them there without waiting for each other. Worker 0 is the chief: it
initialises the variables, saves checkpoints, writes TensorBoard events, and measures the accuracy at the end.

The parameter server never ends by itself: whoever started it ends it when the workers are done.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings of the C++ side would hide our own lines
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1

PIXELS = 64
CLASSES = 10
HIDDEN = 128
BATCH = 64


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job_name", choices=["ps", "worker"], required=True)
    parser.add_argument("--task_index", type=int, required=True)
    parser.add_argument("--ps_hosts", required=True, help="HOST:PORT,... of the parameter servers")
    parser.add_argument("--worker_hosts", required=True, help="HOST:PORT,... of the workers")
    parser.add_argument("--data_dir", help="where digits.npz is")
    parser.add_argument("--checkpoint_dir", help="where the model goes")
    parser.add_argument("--log_dir", help="where the TensorBoard events go")
    parser.add_argument("--train_steps", type=int, default=2000, help="steps of all workers together")
    parser.add_argument("--num_gpus", type=int, default=0, help="GPUs of a worker; 0: train on the CPU")
    parser.add_argument("--learning_rate", type=float, default=0.002)
    options = parser.parse_args()
    if options.job_name == "worker":
        for name in ("data_dir", "checkpoint_dir", "log_dir"):
            if not getattr(options, name):
                parser.error(f"a worker needs --{name}")
    return options


def say(text):
    print(text, flush=True)


def session_config(options):
    """One or two threads each, and no talk with other workers.

    Without device filters a session waits for every worker of the cluster, also for one that has already finished.
    """
    return tf1.ConfigProto(
        intra_op_parallelism_threads=1,
        inter_op_parallelism_threads=2,
        allow_soft_placement=True,
        device_count={"GPU": options.num_gpus},
        device_filters=["/job:ps", f"/job:{options.job_name}/task:{options.task_index}"],
    )


def build(options, cluster):
    """The model, its loss and training step; variables are placed on the parameter servers in turn."""
    worker = f"/job:worker/task:{options.task_index}"
    compute = f"{worker}/gpu:0" if options.num_gpus > 0 else f"{worker}/cpu:0"
    with tf1.device(tf1.train.replica_device_setter(cluster=cluster, worker_device=compute)):
        step = tf1.train.get_or_create_global_step()
        images = tf1.placeholder(tf.float32, [None, PIXELS], name="images")
        labels = tf1.placeholder(tf.int64, [None], name="labels")

        def layer(name, inputs, size):
            rows = int(inputs.shape[1])
            limit = (6.0 / (rows + size)) ** 0.5
            with tf1.variable_scope(name):
                weights = tf1.get_variable(
                    "weights", [rows, size], initializer=tf1.random_uniform_initializer(-limit, limit)
                )
                biases = tf1.get_variable("biases", [size], initializer=tf1.zeros_initializer())
            return tf.matmul(inputs, weights) + biases

        logits = layer("output", tf.nn.relu(layer("hidden", images, HIDDEN)), CLASSES)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), labels), tf.float32))
        train = tf1.train.AdamOptimizer(options.learning_rate).minimize(loss, global_step=step)
        tf1.summary.scalar("loss", loss)
        tf1.summary.scalar("accuracy", accuracy)
    return {
        "step": step,
        "images": images,
        "labels": labels,
        "loss": loss,
        "accuracy": accuracy,
        "train": train,
        "summary": tf1.summary.merge_all(),
    }


def wait_for_chief(server, config, uninitialized):
    """Returns once the chief has initialised the variables (MonitoredTrainingSession itself looks every 30 s only)."""
    with tf1.Session(server.target, config=config) as session:
        while session.run(uninitialized).size > 0:
            time.sleep(0.2)


def work(options, cluster, server):
    chief = options.task_index == 0
    config = session_config(options)
    data = np.load(os.path.join(options.data_dir, "digits.npz"))
    images, labels = data["train_images"], data["train_labels"]
    random = np.random.default_rng(1 + options.task_index)  # each worker sees batches of its own

    with tf.Graph().as_default() as graph:
        tf1.set_random_seed(1)
        model = build(options, cluster)
        hooks = [tf1.train.StopAtStepHook(last_step=options.train_steps)]
        if chief:
            hooks.append(
                tf1.train.SummarySaverHook(save_steps=50, output_dir=options.log_dir, summary_op=model["summary"])
            )
        else:
            wait_for_chief(server, config, tf1.report_uninitialized_variables())

        own_steps = 0
        started = time.monotonic()
        next_line = 0
        with tf1.train.MonitoredTrainingSession(
            master=server.target,
            is_chief=chief,
            checkpoint_dir=options.checkpoint_dir if chief else None,
            hooks=hooks,
            save_checkpoint_steps=500,
            save_summaries_steps=None,
            save_summaries_secs=None,
            log_step_count_steps=None,
            stop_grace_period_secs=10,
            config=config,
        ) as session:
            while not session.should_stop():
                batch = random.integers(len(labels), size=BATCH)
                feed = {model["images"]: images[batch], model["labels"]: labels[batch]}
                _, loss, step = session.run([model["train"], model["loss"], model["step"]], feed_dict=feed)
                own_steps += 1
                if step >= next_line:
                    say(f"step {step} loss {loss:.4f}")
                    next_line = step - step % 100 + 100
        say(f"worker {options.task_index}: {own_steps} steps in {time.monotonic() - started:.1f} s")

        if chief:
            # The trained variables are still on the parameter servers: measure them there.
            with tf1.Session(server.target, graph=graph, config=config) as session:
                feed = {model["images"]: data["test_images"], model["labels"]: data["test_labels"]}
                accuracy = session.run(model["accuracy"], feed_dict=feed)
            say(f"test accuracy {accuracy:.4f}")


def main():
    options = arguments()
    tf1.disable_eager_execution()
    tf1.logging.set_verbosity(tf1.logging.ERROR)
    hosts = {"ps": options.ps_hosts.split(","), "worker": options.worker_hosts.split(",")}
    cluster = tf1.train.ClusterSpec(hosts)
    say(f"{options.job_name} {options.task_index} of {hosts}, TensorFlow {tf.__version__}")
    server = tf1.train.Server(
        cluster, job_name=options.job_name, task_index=options.task_index, config=session_config(options)
    )
    if options.job_name == "ps":
        server.join()  # until it is ended from outside
    else:
        work(options, cluster, server)


if __name__ == "__main__":
    sys.exit(main())
