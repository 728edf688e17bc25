# The ids of reservations: see `_ids.pyx`.

from libc.stdint cimport int64_t

cdef str make_id(int64_t time_ms, int counter, const unsigned char *bits, int shard)
