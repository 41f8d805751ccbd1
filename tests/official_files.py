"""The bytes of CIFAR-10's and MNIST's files as their publishers wrote them, of a few rows."""

import numpy as np


def python2_pickle(images, labels):
    """A batch as Python 2 pickled the official ones; also what python3 -m pickle writes with
    protocol 2.
    """

    def text(value):
        return b"T" + len(value).to_bytes(4, "little") + value

    rows = images.reshape(-1, 3072)
    shape = b"(M" + len(rows).to_bytes(2, "little") + b"M\x00\x0ct"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    array += shape + dtype + b"\x89" + text(rows.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()
