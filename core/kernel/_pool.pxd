# The state of one pool in C, and the rules that move units inside it.
#
# Read this first. Everything is a whole number of units in int64; "share" and "credit" are
# millionths. Channels are numbered 0..n-1 in the order of their names, so that "ties by name" is
# "the lower index first". The rules are DESIGN's; `reference.py` says them slowly.

from libc.stdint cimport int32_t, int64_t, uint64_t

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
    bint split                      # may spread a line over locations

cdef struct Quota:                  # one channel's accounts in one pool
    int64_t free
    int64_t reserved
    int64_t committed
    int64_t credit                  # signed; what rounding owes this party
    int64_t ceiling_number          # +1 each time a ceiling starts anew; 0 = never had one
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
    uint64_t parties                # bit c: channel c sells from this location
    bint sells
    bint met                        # a policy was met since it was loaded: swap, never rebase
    bint touched                    # a plan changed it
    int32_t channels                # how many quotas follow
    Rule *rules
    Quota *quotas

cdef int parse_row(const char *text, Py_ssize_t length, dict channel_index, Pool *pool) except -1
cdef bytes print_row(Pool *pool, list channel_names, int64_t version)
cdef bytes print_deltas(Pool *pool, Pool *before, list channel_names, bint receiving)
cdef int check_laws(Pool *pool, Pool *before) except -1

cdef void meet(Pool *pool, int64_t sku_number, int64_t policy_number) noexcept nogil
cdef int receive(Pool *pool, int64_t quantity) noexcept nogil
cdef void give_back(
    Pool *pool, int channel, int64_t own, int64_t borrowed, int64_t ceiling_number,
    bint committed) noexcept nogil

cdef inline int64_t borrowable(Pool *pool, int channel) noexcept nogil:
    """Units that `channel` could take if it had no ceiling."""
    if not pool.sells:
        return 0
    return pool.quotas[channel].free + (pool.shared if pool.rules[channel].borrow else 0)


cdef inline int64_t available(Pool *pool, int channel) noexcept nogil:
    """Units that `channel` can take now."""
    cdef int64_t units = borrowable(pool, channel)
    cdef Quota *quota = &pool.quotas[channel]
    if quota.ceiling_kind != CEILING_NONE and quota.ceiling_left < units:
        return quota.ceiling_left
    return units


cdef inline int64_t take(
    Pool *pool, int channel, int64_t quantity, bint committed
) noexcept nogil:
    """Move `quantity` (at most what is available) to `reserved` or `committed`; returns the part
    that is own."""
    cdef Quota *quota = &pool.quotas[channel]
    cdef int64_t own = quantity if quantity < quota.free else quota.free
    quota.free -= own
    pool.shared -= quantity - own
    if committed:
        quota.committed += quantity
    else:
        quota.reserved += quantity
    if quota.ceiling_kind != CEILING_NONE:
        quota.ceiling_left -= quantity
    return own


cdef inline void untake(
    Pool *pool, int channel, int64_t own, int64_t borrowed, bint committed
) noexcept nogil:
    """Undo `take` while planning: exactly what it moved goes back to where it was."""
    cdef Quota *quota = &pool.quotas[channel]
    quota.free += own
    pool.shared += borrowed
    if committed:
        quota.committed -= own + borrowed
    else:
        quota.reserved -= own + borrowed
    if quota.ceiling_kind != CEILING_NONE:
        quota.ceiling_left += own + borrowed
