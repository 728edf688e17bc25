# What is planned with: the policy, and SKUs and rows as a worker last saw them.

from libc.stdint cimport int32_t, int64_t

from core.kernel._pool cimport Rule

cdef enum:
    CHANNELS_MAX = 64               # one bit each in Pool.parties


cdef class Policy:
    cdef readonly int64_t number
    cdef readonly tuple channels            # names, sorted
    cdef readonly dict specs                # name → spec
    cdef readonly dict locations            # name → (sells, returns)
    cdef list _names                        # the same as bytes
    cdef list _locations                    # per channel, without repeats
    cdef dict _index                        # name, as str and as bytes → number
    cdef dict _parties                      # location → bit mask of channels
    cdef Rule _rules[CHANNELS_MAX]


cdef class Row:
    cdef readonly bytes pool                # sku@location
    cdef readonly str sku
    cdef readonly str location
    cdef public bytes text                  # b"" while the pool has no row
    cdef public int64_t round               # pipeline in which it was last seen to be current
    cdef public double seen_at              # when that pipeline was sent, monotonic seconds
    cdef public int64_t planned             # last pipeline that carries a plan for it
    cdef public bint used
    cdef int64_t stamp                      # the batch that parsed it
    cdef int32_t slot


cdef class Sku:
    cdef readonly str name
    cdef readonly int64_t number            # 0: there is no such SKU
    cdef readonly bytes text                # the entry in the store
    cdef readonly object spec
    cdef readonly bint limited              # a customer may have only so many
    cdef readonly tuple locations           # where it has a pool
    cdef readonly dict rows                 # location → Row, as far as this worker knows them
    cdef public int64_t round
    cdef public double seen_at
    cdef Rule *_rules                       # NULL: the channels' own rules
    cdef int64_t _rules_for                 # the policy number that _rules was made for

    cdef Rule *rules(self, Policy policy) except NULL
