"""Writes handwritten digits into a data set directory: digits.npz.

The digits are real: the 1797 images of 8 x 8 pixels of the UCI machine learning repository ("Optical Recognition of
Handwritten Digits", E. Alpaydin and C. Kaynak, 1998, CC BY 4.0), which scikit-learn carries, so nothing is downloaded.
Four of five images are for training, the rest for the test; every node makes the same split.

Usage: make_data.py DIRECTORY
"""

import os
import sys

import numpy as np
from sklearn.datasets import load_digits


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = sys.argv[1]
    os.makedirs(directory, exist_ok=True)

    digits = load_digits()
    images = (digits.data / 16.0).astype(np.float32)  # pixels are 0..16
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = np.split(order, [len(labels) // 5])

    # Written beside and renamed, so that a reader never sees half of it.
    path = os.path.join(directory, "digits.npz")
    part = path + ".part"
    with open(part, "wb") as file:
        np.savez_compressed(
            file,
            train_images=images[train],
            train_labels=labels[train],
            test_images=images[test],
            test_labels=labels[test],
        )
    os.replace(part, path)
    print(f"{len(train)} training and {len(test)} test images in {path}")


if __name__ == "__main__":
    main()
