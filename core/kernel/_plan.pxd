# What the planner works on. Values are set up in Python objects (Policy, Sku, Row, Demand), copied
# once into flat C arrays (Batch), planned there without touching Python, and printed once.

from libc.stdint cimport int32_t, int64_t, uint64_t

from core.kernel._policy cimport Policy, Row, Sku
from core.kernel._pool cimport Pool, Quota

cdef enum:
    POOLS_MAX = 2000                # rows of one script: three values each stay below Lua's 7,999

cdef struct Part:                   # one line of a demand, the same sku and pin summed
    int64_t quantity
    int32_t line                    # where in the demand it stood first
    int32_t first_candidate         # pool slots in order of preference
    int32_t candidates

cdef struct Wish:                   # one demand
    int32_t channel
    int32_t first_part
    int32_t parts
    int32_t first_take
    int32_t takes
    int32_t first_shortfall
    int32_t shortfalls
    bint partial
    bint split
    bint committed                  # takes go to `committed` (a late commit), not to `reserved`
    bint repeats                    # a sku stands in more than one part: takes may share a pool

cdef struct Take:
    int64_t own
    int64_t borrowed
    int64_t ceiling_number
    int32_t slot

cdef struct Shortfall:
    int64_t available
    int64_t granted
    int32_t part
    int32_t limit


cdef class Demand:
    cdef public str channel
    cdef public object lines                # objects with sku, quantity, location, locations
    cdef public bint partial
    cdef public bint split
    cdef public bint committed
    cdef public int64_t ttl_ms
    cdef public bytes tail                  # "channel customer reference" of the record
    cdef public int64_t version             # of the record; 1 for a new one
    cdef public str id
    cdef public bytes record
    cdef public list shortfalls


cdef class Batch:
    cdef readonly Policy policy
    cdef readonly list misses               # (sku, location) pairs to be read before planning
    cdef readonly list demands
    cdef readonly list rows                 # slot → Row
    cdef object _skus                       # name → Sku
    cdef list _part_skus
    cdef int64_t _stamp
    cdef int _pools
    cdef int _wishes
    cdef int _parts
    cdef int _takes
    cdef int _shortfalls
    cdef int _candidates
    cdef int _stride
    cdef int _part_room
    cdef int _candidate_room
    cdef int _wish_room
    cdef int _take_room
    cdef int _shortfall_room
    cdef Pool *_now
    cdef Pool *_before
    cdef Quota *_now_quotas
    cdef Quota *_before_quotas
    cdef Part *_part
    cdef Wish *_wish
    cdef Take *_take
    cdef Shortfall *_shortfall
    cdef int32_t *_candidate

    cdef int _slot(self, Row row, Sku sku) except -2
    cdef int _add_lines(self, Demand demand, Wish *wish) except -2
    cdef int _add_line(self, object line, str location, Wish *wish, int64_t quantity,
                       int number) except -2
    cdef int _add_part(self, object line, str location, Sku sku, int channel, int64_t quantity,
                       int number) except -2
    cdef int _grow(self, void **array, int *room, Py_ssize_t size) except -1
    cdef void _remember(self, int slot) noexcept
    cdef void _plan_wish(self, int number) noexcept nogil
    cdef bint _plan_part(self, Wish *wish, int number) noexcept nogil
    cdef void _take_from(self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil
    cdef void _fall_short(
        self, Wish *wish, int number, int64_t reach, int64_t granted, int32_t only) noexcept nogil
