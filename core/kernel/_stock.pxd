# The pools of a round: parsed once into flat C arrays at first touch, planned on by every stage,
# printed after each.

from libc.stdint cimport int32_t, int64_t

from core.kernel._moves cimport MOVES_MAX, Move, Moves
from core.kernel._policy cimport Policy, Row, Sku
from core.kernel._pool cimport Pool, Quota

cdef enum:
    POOLS_MAX = 2000                # rows of one script: three values each stay below Lua's 7,999


cdef class Stock:
    cdef readonly Policy policy
    cdef readonly list rows                 # slot → Row
    cdef object _skus                       # name → Sku
    cdef int64_t _stamp
    cdef int _pools
    cdef int _stride                        # quotas per pool
    cdef Pool *_now
    cdef Pool *_before                      # as printed last: what changed is a delta against it
    cdef Quota *_now_quotas
    cdef Quota *_before_quotas
    cdef Moves _done                        # what a verb of stock did
    cdef Move _move[MOVES_MAX]

    cdef int _slot(self, Row row, Sku sku) except -2
    cdef void _remember(self, int slot) noexcept
    cdef Pool *_pool(self, Row row, Sku sku) except? NULL
    cdef int _channel(self, channel) except -1
    cdef int32_t _account(self, name) except -1
    cdef str _name(self, int32_t account)
    cdef list _moves(self)
