# The rules that move units inside a pool. DESIGN §3 in C; `reference.py` says them slowly.

from libc.stdint cimport int32_t, int64_t

from core.kernel._moves cimport Moves
from core.kernel._pool cimport CEILING_NONE, Pool, Quota, Rule, units_of

cdef inline int64_t on_hand(Pool *pool) noexcept nogil:
    """All that lies there."""
    return units_of(pool) - pool.deficit


cdef int put_away(Pool *pool, int64_t quantity, int32_t account, Moves *moves) noexcept nogil
cdef void lose(
    Pool *pool, int64_t quantity, int32_t account, bint counting, Moves *moves) noexcept nogil
cdef int64_t strip(
    Pool *pool, int64_t quantity, int channel, int32_t target, Moves *moves) noexcept nogil
cdef int64_t unsold(Pool *pool) noexcept nogil
cdef int transfer(
    Pool *source, Pool *target, int64_t quantity, Moves *moves, int32_t slot) noexcept nogil
cdef int64_t *account_at(Pool *pool, int32_t account) noexcept nogil
cdef void reallocate(
    Pool *pool, int32_t source, int32_t target, int64_t quantity, Moves *moves) noexcept nogil
cdef void drop_channel(Pool *pool, int channel, Moves *moves) noexcept nogil
cdef void give_back(
    Pool *pool, int channel, int64_t own, int64_t borrowed, int64_t ceiling_number,
    bint committed) noexcept nogil
cdef bint lay_open(
    Pool *pool, int channel, int64_t own, int64_t borrowed, int64_t ceiling_number,
    bint committed) noexcept nogil
cdef void pay_deficit(Pool *pool, int channel) noexcept nogil
cdef void ship(Pool *pool, int channel, int64_t quantity, Moves *moves) noexcept nogil

cdef inline int64_t borrowable(Pool *pool, int channel) noexcept nogil:
    """Units that `channel` could take if it had no ceiling. What is held it always can; of the
    rest it leaves what it `keeps`."""
    if not pool.sells:
        return pool.held
    cdef Rule *rule = &pool.rules[channel]
    cdef int64_t units = pool.quotas[channel].free
    if rule.borrow:
        return units + pool.shared
    units += pool.held_borrowed - rule.keeps
    return units if units > pool.held or not rule.keeps else pool.held


cdef inline int64_t available(Pool *pool, int channel) noexcept nogil:
    """Units that `channel` can take now."""
    cdef int64_t units = borrowable(pool, channel)
    cdef Quota *quota = &pool.quotas[channel]
    cdef int64_t allowed = quota.ceiling_left + pool.held_outdated
    if quota.ceiling_kind != CEILING_NONE and allowed < units:
        return allowed
    return units


cdef inline int64_t standing(Quota *quota) noexcept nogil:
    """The number of the ceiling that a take spends of now; 0 if none stands."""
    return quota.ceiling_number if quota.ceiling_kind != CEILING_NONE else 0


cdef inline int64_t take(
    Pool *pool, int channel, int64_t quantity, int64_t ceiling_number, bint committed
) noexcept nogil:
    """Move `quantity` (at most what is available) to `reserved` or `committed`; returns the part
    that is own. Held units that spent another ceiling than the one that stands spend nothing.
    Own units go first; where some are kept, they are not taken for borrowed ones that are held."""
    cdef Quota *quota = &pool.quotas[channel]
    cdef int64_t own = quantity if quantity < quota.free else quota.free
    if pool.rules[channel].keeps and pool.held_borrowed:
        own = quantity - pool.held_borrowed if quantity > pool.held_borrowed else 0
    quota.free -= own
    pool.shared -= quantity - own
    if committed:
        quota.committed += quantity
    else:
        quota.reserved += quantity
    if ceiling_number and ceiling_number == standing(quota):
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
