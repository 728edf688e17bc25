# What the planner works on. Values are set up in Python objects (Policy, Sku, Row, Demand), copied
# once into flat C arrays (`_decide.pxd`), planned there without touching Python, and printed once.

from libc.stdint cimport int32_t, int64_t

from core.kernel._decide cimport (
    COMMITTED_STATE, FULFILLED_STATE, RESERVED_STATE, Decisions, Hold, Part, Shortfall, Take, Wish)
from core.kernel._moves cimport Move
from core.kernel._policy cimport Policy, Row, Sku
from core.kernel._pool cimport Pool


cdef class Demand:
    cdef public str channel
    cdef public object lines                # objects with sku, quantity, location, locations
    cdef public bint partial
    cdef public bint split
    cdef public bint fact
    cdef public int32_t state
    cdef public int64_t ttl_ms
    cdef public bytes tail                  # "channel customer reference" of the record
    cdef public list held
    cdef public str id
    cdef public bytes record
    cdef public list shortfalls
    cdef public list takes
    cdef public list moves
    cdef public dict limits
    cdef public bint unnamed


cdef class Batch(Decisions):
    cdef readonly list misses               # (sku, location) pairs to be read before planning
    cdef readonly list demands
    cdef readonly bint limited              # a demand of the stage has limits
    cdef list _part_skus
    cdef dict _limits                       # of the demand that is taken in

    cdef int _add_lines(self, Demand demand, Wish *wish) except -2
    cdef int _add_held(self, list held, int result) except -2
    cdef int _add_line(self, object line, str location, Wish *wish, int64_t quantity,
                       int number) except -2
    cdef int _add_part(self, object line, str location, Sku sku, Wish *wish, int64_t quantity,
                       int number) except -2
    cdef void _limit(self, Sku sku) except *
    cdef bytes _record(self, Wish *wish, int64_t time_ms, bytes tail)
    cdef list _took(self, Wish *wish)
    cdef list _moved(self, Wish *wish)
