# The state of one pool in C, its row as text, and the laws that it obeys.
#
# Read this first. Everything is a whole number of units in int64; "share" and "credit" are
# millionths. Channels are numbered 0..n-1 in the order of their names, so that "ties by name" is
# "the lower index first". The rules that move units are in `_rules.pxd`.

from libc.stdint cimport int32_t, int64_t, uint64_t

cdef enum:
    ONE = 1000000                   # a whole, in millionths

cdef int64_t ACCOUNT_MAX            # 2^53 - 1: Lua's numbers are doubles

cdef enum:
    CEILING_NONE = 0
    CEILING_UNITS = 1
    CEILING_SHARE = 2

cdef enum Limit:                    # why a line was refused, the tightest first
    LIMIT_NONE = 0
    LIMIT_CEILING = 1               # channel_ceiling
    LIMIT_QUOTA = 2                 # channel_quota
    LIMIT_SAFETY = 3                # safety_stock
    LIMIT_ON_HAND = 4               # on_hand

cdef struct Rule:                   # what the policy says of one channel, for one SKU
    int64_t floor_share             # millionths of what arrives
    int64_t floor_units             # `free` is filled up to this
    int64_t ceiling_value           # units or millionths
    int32_t ceiling_kind
    bint borrow                     # may take from `shared`
    int64_t keeps                   # units of its own that it leaves in a pool; 0 if it may borrow
    bint split                      # may spread a line over locations
    bint closed                     # the channel is being deleted: takes and gets nothing

cdef struct Quota:                  # one channel's accounts in one pool
    int64_t free
    int64_t reserved
    int64_t committed
    int64_t credit                  # signed; what rounding owes this party
    int64_t ceiling_number          # grows each time a ceiling starts anew; 0 = never had one
    int64_t ceiling_value
    int64_t ceiling_left            # the allowance; an account of its own, not units
    int64_t ceiling_remainder
    int32_t ceiling_kind

cdef struct Pool:
    int64_t version                 # +1 per commit that touches the pool
    int64_t sku_number              # the SKU policy that this row has met
    int64_t policy_number           # the channels and locations that it has met
    int64_t shared
    int64_t safety
    int64_t damaged
    int64_t quarantine
    int64_t deficit
    int64_t shared_credit
    int64_t inflow                  # units from `outside` since it was loaded
    int64_t safety_target
    # What the record that is planned again just now held here and has not taken again yet: it may,
    # whatever the policy has become. They lie in their accounts meanwhile.
    int64_t held
    int64_t held_borrowed           # of those
    int64_t held_outdated           # of those: what they spent is no ceiling that stands
    uint64_t parties                # bit c: channel c sells from this location
    bint sells
    bint touched                    # a plan changed it
    # What was planned on it, since it was loaded, decides how a script may rebase it.
    bint met                        # a policy was met: swap, never rebase
    bint fixed                      # the plan is right for this very row alone: likewise
    bint receipt                    # what a receipt looks at must still be so
    bint replanned                  # the deficit must still be so
    int32_t channels                # how many quotas follow
    Rule *rules
    Quota *quotas

cdef int parse_row(const char *text, Py_ssize_t length, dict channel_index, Pool *pool) except -1
cdef char *put_number(char *at, int64_t value) noexcept nogil
cdef char *put_text(char *at, bytes text) noexcept
cdef bytes print_row(Pool *pool, list channel_names, int64_t version)
cdef bytes print_deltas(Pool *pool, Pool *before, list channel_names)
cdef int check_laws(Pool *pool, Pool *before) except -1
cdef int64_t units_of(Pool *pool) noexcept nogil
