# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Ranks of true matches, counted in one pass over each distance row: no sort of the gallery, no index matrix."""
from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t


cdef inline Py_ssize_t position(const floating* cutoffs, const int64_t* columns, Py_ssize_t count,
                                floating distance, Py_ssize_t column) noexcept nogil:
    """Return how many of the sorted (cutoff, column) pairs come before (distance, column)."""
    cdef Py_ssize_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) >> 1
        if cutoffs[middle] < distance or (cutoffs[middle] == distance and columns[middle] < column):
            low = middle + 1
        else:
            high = middle
    return low


cdef void rank_by_scan(const floating* row, Py_ssize_t gallery, const floating* cutoffs, const int64_t* columns,
                       Py_ssize_t count, const int64_t* dropped, Py_ssize_t num_dropped,
                       int64_t* ranks) noexcept nogil:
    """Compare every gallery entry with every match: vectorised by the compiler, fastest for a few matches."""
    cdef Py_ssize_t k, i, j
    cdef int smaller
    cdef floating cutoff
    for k in range(count):
        cutoff = cutoffs[k]
        smaller = 1
        # An equal distance at a lower gallery index comes first, at a higher index later.
        for j in range(columns[k]):
            smaller = smaller + (row[j] <= cutoff)
        for j in range(columns[k] + 1, gallery):
            smaller = smaller + (row[j] < cutoff)
        for i in range(num_dropped):
            j = dropped[i]
            smaller = smaller - (row[j] < cutoff or (row[j] == cutoff and j < columns[k]))
        ranks[k] = smaller


cdef void rank_by_search(const floating* row, Py_ssize_t gallery, const floating* cutoffs, const int64_t* columns,
                         Py_ssize_t count, const int64_t* dropped, Py_ssize_t num_dropped,
                         int64_t* ranks) noexcept nogil:
    """Place every gallery entry between the sorted matches: the cost grows with the logarithm of their number."""
    cdef Py_ssize_t k, i, j
    cdef floating last = cutoffs[count - 1]
    for k in range(count):
        ranks[k] = 0
    for j in range(gallery):
        if row[j] <= last:
            k = position(cutoffs, columns, count, row[j], j)
            if k < count:
                ranks[k] += 1
    for i in range(num_dropped):
        k = position(cutoffs, columns, count, row[dropped[i]], dropped[i])
        if k < count:
            ranks[k] -= 1
    for k in range(1, count):
        ranks[k] += ranks[k - 1]


def match_ranks(const floating[:, ::1] distances, const floating[::1] cutoffs, const int64_t[::1] columns,
                const int64_t[::1] offsets, const int64_t[::1] dropped, const int64_t[::1] dropped_offsets,
                int64_t[::1] ranks, int num_threads, Py_ssize_t scan_limit=128):
    """Write into `ranks` the place (from 1) of every true match among its query's kept gallery.

    `distances` is (Q, G). The matches of query i are `columns[offsets[i]:offsets[i + 1]]`, sorted by (distance,
    column), and `cutoffs` holds their distances; `dropped` lists in the same way the gallery entries that do not
    take part.
    Up to `scan_limit` matches per query are counted by comparing, more by binary search; the ranks are the same.
    """
    cdef Py_ssize_t queries = distances.shape[0], gallery = distances.shape[1], i, first, count, num_dropped
    if columns.shape[0] == 0:
        return
    # A pointer to the first element of an empty array does not exist, so an empty list is never dereferenced.
    cdef const int64_t* dropped_start = NULL
    if dropped.shape[0] > 0:
        dropped_start = &dropped[0]
    for i in prange(queries, nogil=True, schedule="static", num_threads=num_threads):
        first = offsets[i]
        count = offsets[i + 1] - first
        num_dropped = dropped_offsets[i + 1] - dropped_offsets[i]
        if 0 < count <= scan_limit:
            rank_by_scan(&distances[i, 0], gallery, &cutoffs[first], &columns[first], count,
                         dropped_start + dropped_offsets[i], num_dropped, &ranks[first])
        elif count > 0:
            rank_by_search(&distances[i, 0], gallery, &cutoffs[first], &columns[first], count,
                           dropped_start + dropped_offsets[i], num_dropped, &ranks[first])
