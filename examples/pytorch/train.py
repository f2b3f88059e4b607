"""Trains a small network on handwritten digits with torch.distributed: one process per rank, gradients averaged by gloo.

Without arguments the process finds the others through the environment, as under torchrun: MASTER_ADDR, MASTER_PORT,
RANK, WORLD_SIZE. With --dist-url and --rank it does as Batch AI's examples did: the processes meet in a file on a
folder that all of them see.
"""

import argparse
import csv
import gzip
import os
import sys

# Processes that share one machine meet on its loopback; gloo would take the address of the host's name instead.
if os.environ.get("MASTER_ADDR", "").startswith("127."):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

BATCH = 32


def load(directory):
    with gzip.open(os.path.join(directory, "digits.csv.gz"), "rt", newline="") as file:
        table = torch.tensor([[int(cell) for cell in row] for row in csv.reader(file)])
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    images, labels = table[order, :-1].float() / 16, table[order, -1]
    cut = len(labels) // 5
    return images[cut:], labels[cut:], images[:cut], labels[:cut]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist-url", default="env://", help="where the processes meet: env:// or file:///PATH")
    parser.add_argument("--dist-backend", default="gloo")
    parser.add_argument("--rank", type=int, default=-1, help="this process; with env:// from RANK")
    parser.add_argument("--world-size", type=int, default=-1, help="all processes; with env:// from WORLD_SIZE")
    parser.add_argument("--data-dir", required=True, help="where digits.csv.gz is")
    parser.add_argument("--model-dir", required=True, help="where rank 0 leaves model.pt")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group(
        options.dist_backend, init_method=options.dist_url, rank=options.rank, world_size=options.world_size
    )
    rank, world = dist.get_rank(), dist.get_world_size()
    print(f"rank {rank} of {world}, torch {torch.__version__}, {options.dist_backend}", flush=True)

    images, labels, test_images, test_labels = load(options.data_dir)
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    usable = len(labels) - len(labels) % world  # every rank does the same number of steps
    for epoch in range(options.epochs):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))[rank:usable:world]
        total = 0.0
        for batch in order.split(BATCH):
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # averages the gradients over all ranks
            optimizer.step()
            total += loss.item() * len(batch)
        mean = torch.tensor(total / len(order))
        dist.all_reduce(mean)
        if rank == 0:
            print(f"epoch {epoch + 1} loss {mean.item() / world:.4f}", flush=True)

    if rank == 0:
        with torch.no_grad():
            accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
        torch.save(model.module.state_dict(), os.path.join(options.model_dir, "model.pt"))
        print(f"test accuracy {accuracy:.4f}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
