# How a pool meets its policy, and how what arrives is allotted.

from libc.stdint cimport int32_t, int64_t

from core.kernel._moves cimport Moves
from core.kernel._pool cimport Pool

cdef extern from *:
    ctypedef long long int128 "__int128"    # products of units and units or shares pass 2^63

cdef void meet(Pool *pool, int64_t sku_number, int64_t policy_number) noexcept nogil
cdef int receive(Pool *pool, int64_t quantity, bint grows, Moves *moves) noexcept nogil
cdef void reapportion(Pool *pool, Moves *moves) noexcept nogil
cdef void allot(Pool *pool, int64_t quantity, int32_t source, Moves *moves) noexcept nogil
cdef void apportion(
    int64_t units, const int64_t *weights, int count, int64_t *given) noexcept nogil
