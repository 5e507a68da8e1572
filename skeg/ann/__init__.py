"""Vector search: build graph indexes offline, open them in any process, scan flat ones.

    build_index(source, path)     a Vamana index of a file or an array of vectors, in a folder
    Index.open(path)              search it, by filters too
    Index.create(path, dim)       an index that changes: add, update, delete, search meanwhile
    FlatIndex.create(path, dim)   a growing index that is scanned whole
    exact_search, recall_at_k     ground truth, and how much of it was found

Symbols in formulas and kernels: n stored vectors, d dimensions, q queries, k hits, R maximum degree, L list size.
"""

from skeg.ann.build import build_index
from skeg.ann.exact import exact_search
from skeg.ann.flat import FlatIndex
from skeg.ann.hits import Hits
from skeg.ann.index import Index
from skeg.ann.progress import Progress
from skeg.ann.recall import recall_at_k
from skeg.durability import Durability

__all__ = ["Durability", "FlatIndex", "Hits", "Index", "Progress", "build_index", "exact_search", "recall_at_k"]
