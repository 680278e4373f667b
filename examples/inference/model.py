"""What the workers of serve compute: a small network, over arrays that are the server's."""
import numpy as np


def infer(x, probabilities, first, second):
    """A row of x is a request, and gets the row of probabilities with the same number."""
    y = np.maximum(x @ first, 0) @ second
    y -= y.max(axis=1, keepdims=True)
    np.exp(y, out=y)
    np.divide(y, y.sum(axis=1, keepdims=True), out=probabilities)
