"""The rules that move units inside a pool. See ``_rules.pxd``; pure C, nothing is allocated."""

from libc.stdint cimport int32_t, int64_t

from core.kernel._moves cimport (
    AT_COMMITTED, AT_DAMAGED, AT_DEFICIT, AT_FREE, AT_OUTSIDE, AT_QUARANTINE, AT_SAFETY,
    AT_SHARED, note)
from core.kernel._pool cimport ACCOUNT_MAX, CEILING_SHARE, ONE
from core.kernel._receipt cimport allot, apportion, int128


# --- what is put away or missing -------------------------------------------------------------

cdef int put_away(Pool *pool, int64_t quantity, int32_t account, Moves *moves) noexcept nogil:
    """Units that may not be sold arrive. -1 if an account would overflow."""
    if units_of(pool) > ACCOUNT_MAX - quantity:
        return -1
    account_at(pool, account)[0] += quantity
    note(moves, AT_OUTSIDE, account, quantity)
    pool.inflow += quantity
    pool.touched = True
    return 0


cdef int64_t strip(
    Pool *pool, int64_t quantity, int channel, int32_t target, Moves *moves
) noexcept nogil:
    """Takes what a fact must: shared, safety, free in proportion. What is missing still.

    Where more goes than what `channel` (-1: nobody) may ever have, the plan is for this very row.
    """
    cdef int64_t frees[64]
    cdef int64_t given[64]
    cdef int64_t left = quantity, part, free = 0
    cdef int c
    part = left if left < pool.shared else pool.shared
    pool.shared -= part
    left -= part
    note(moves, AT_SHARED, target, part)
    part = left if left < pool.safety else pool.safety
    pool.safety -= part
    left -= part
    note(moves, AT_SAFETY, target, part)
    pool.fixed = pool.fixed or part > 0
    for c in range(pool.channels):
        frees[c] = pool.quotas[c].free
        free += frees[c]
    part = left if left < free else free
    apportion(part, frees, pool.channels, given)
    for c in range(pool.channels):
        pool.quotas[c].free -= given[c]
        note(moves, AT_FREE + c, target, given[c])
        pool.fixed = pool.fixed or (given[c] > 0 and c != channel)
    return left - part


cdef void _lose_from(
    Pool *pool, int32_t account, int64_t *left, Moves *moves
) noexcept nogil:
    cdef int64_t *units = account_at(pool, account)
    cdef int64_t part = left[0] if left[0] < units[0] else units[0]
    units[0] -= part
    left[0] -= part
    note(moves, account, AT_OUTSIDE, part)


cdef void lose(
    Pool *pool, int64_t quantity, int32_t account, bint counting, Moves *moves
) noexcept nogil:
    """Units, at most what is on hand, are not there: `account` first (AT_OUTSIDE: none), then as a
    fact; a count does not spare what is not sold either. What is missing still is a deficit."""
    cdef int64_t left = quantity
    if account != AT_OUTSIDE:
        _lose_from(pool, account, &left, moves)
    left = strip(pool, left, -1, AT_OUTSIDE, moves)
    if counting:
        _lose_from(pool, AT_QUARANTINE, &left, moves)
        _lose_from(pool, AT_DAMAGED, &left, moves)
    pool.deficit += left
    note(moves, AT_DEFICIT, AT_OUTSIDE, left)
    pool.inflow -= quantity
    pool.fixed = pool.touched = True


# --- what is moved by hand -------------------------------------------------------------------

cdef int64_t unsold(Pool *pool) noexcept nogil:
    """What a transfer may take."""
    cdef int64_t units = pool.shared
    cdef int c
    for c in range(pool.channels):
        units += pool.quotas[c].free
    return units


cdef inline bint _travels(Pool *source, Pool *target, int channel) noexcept nogil:
    """True for an allowance by share; only a closed channel's can have ended at one end."""
    return (source.quotas[channel].ceiling_kind == CEILING_SHARE
            and target.quotas[channel].ceiling_kind == CEILING_SHARE)


cdef inline int128 _in_millionths(Quota *quota) noexcept nogil:
    cdef int128 units = quota.ceiling_left
    return units * ONE + quota.ceiling_remainder


cdef inline int128 _load(Quota *quota, int64_t quantity) noexcept nogil:
    """The allowance that goes with so many units, in millionths."""
    cdef int128 load = quantity
    cdef int128 have = _in_millionths(quota)
    load = load * quota.ceiling_value
    return load if load < have else have


cdef inline void _set_allowance(Quota *quota, int128 millionths) noexcept nogil:
    quota.ceiling_left = <int64_t>(millionths // ONE)
    quota.ceiling_remainder = <int64_t>(millionths % ONE)


cdef int transfer(
    Pool *source, Pool *target, int64_t quantity, Moves *moves, int32_t slot
) noexcept nogil:
    """Unsold units, no more than there are, move to a pool of the same SKU (`slot` in the notes).

    -1 if an account there would overflow; then nothing was done.
    """
    cdef int64_t frees[64]
    cdef int64_t parts[64]              # of each channel's free
    cdef int64_t paid[64]               # of those, what a deficit there takes
    cdef int64_t shared = quantity if quantity < source.shared else source.shared
    cdef int64_t debt = quantity if quantity < target.deficit else target.deficit
    cdef int128 have, load
    cdef int c
    if units_of(target) - debt > ACCOUNT_MAX - quantity:
        return -1
    for c in range(source.channels):
        if _travels(source, target, c):
            have = _in_millionths(&target.quotas[c]) + _load(&source.quotas[c], quantity)
            if have // ONE > ACCOUNT_MAX:
                return -1
    for c in range(source.channels):
        frees[c] = source.quotas[c].free
        if _travels(source, target, c):
            load = _load(&source.quotas[c], quantity)
            have = _in_millionths(&source.quotas[c])
            _set_allowance(&source.quotas[c], have - load)
            have = _in_millionths(&target.quotas[c])
            _set_allowance(&target.quotas[c], have + load)
    apportion(quantity - shared, frees, source.channels, parts)
    source.shared -= shared
    note(moves, AT_SHARED, AT_OUTSIDE, shared)
    for c in range(source.channels):
        source.quotas[c].free -= parts[c]
        note(moves, AT_FREE + c, AT_OUTSIDE, parts[c])

    moves.slot = slot
    target.deficit -= debt              # paid by what was shared before anybody's own
    note(moves, AT_OUTSIDE, AT_DEFICIT, debt)
    if shared >= debt:
        shared -= debt
        debt = 0
    else:
        debt -= shared
        shared = 0
    apportion(debt, parts, source.channels, paid)
    for c in range(source.channels):
        parts[c] -= paid[c]
        if (target.parties >> c) & 1:
            target.quotas[c].free += parts[c]
            note(moves, AT_OUTSIDE, AT_FREE + c, parts[c])
        else:
            shared += parts[c]
    if shared:
        allot(target, shared, AT_OUTSIDE, moves)
    source.inflow -= quantity
    target.inflow += quantity
    source.touched = source.fixed = target.touched = target.fixed = True
    return 0


cdef int64_t *account_at(Pool *pool, int32_t account) noexcept nogil:
    """Where an account that units may be moved from and to by hand is kept."""
    if account == AT_SHARED:
        return &pool.shared
    if account == AT_SAFETY:
        return &pool.safety
    if account == AT_DAMAGED:
        return &pool.damaged
    if account == AT_QUARANTINE:
        return &pool.quarantine
    return &pool.quotas[account - AT_FREE].free


cdef void reallocate(
    Pool *pool, int32_t source, int32_t target, int64_t quantity, Moves *moves
) noexcept nogil:
    """Units, no more than there are, move; what becomes sellable pays the deficit first."""
    cdef int64_t paid = 0
    account_at(pool, source)[0] -= quantity
    if target != AT_DAMAGED and target != AT_QUARANTINE:
        paid = quantity if quantity < pool.deficit else pool.deficit
    pool.deficit -= paid
    account_at(pool, target)[0] += quantity - paid
    note(moves, source, AT_DEFICIT, paid)
    note(moves, source, target, quantity - paid)
    pool.fixed = pool.touched = True


cdef void drop_channel(Pool *pool, int channel, Moves *moves) noexcept nogil:
    """A channel with nothing reserved or committed leaves the pool."""
    cdef Quota *quota = &pool.quotas[channel]
    note(moves, AT_FREE + channel, AT_SHARED, quota.free)
    pool.shared += quota.free
    pool.shared_credit += quota.credit
    quota.free = quota.credit = 0
    quota.ceiling_kind = CEILING_NONE
    quota.ceiling_number = quota.ceiling_value = 0
    quota.ceiling_left = quota.ceiling_remainder = 0
    pool.fixed = pool.touched = True


# --- what reservations hold ------------------------------------------------------------------

cdef inline void _unspend(Quota *quota, int64_t units, int64_t ceiling_number) noexcept nogil:
    """The allowance comes back, to the ceiling that it was spent of and to no later one."""
    if quota.ceiling_kind != CEILING_NONE and quota.ceiling_number == ceiling_number:
        quota.ceiling_left += units


cdef void give_back(
    Pool *pool, int channel, int64_t own, int64_t borrowed, int64_t ceiling_number,
    bint committed
) noexcept nogil:
    """Units of a reservation return: the deficit is paid first, by borrowed units before own."""
    cdef Quota *quota = &pool.quotas[channel]
    cdef int64_t units = own + borrowed, paid
    if committed:
        quota.committed -= units
    else:
        quota.reserved -= units
    _unspend(quota, units, ceiling_number)
    paid = borrowed if borrowed < pool.deficit else pool.deficit
    pool.deficit -= paid
    borrowed -= paid
    paid = own if own < pool.deficit else pool.deficit
    pool.deficit -= paid
    own -= paid
    pool.shared += borrowed
    quota.free += own
    pool.touched = True


cdef bint lay_open(
    Pool *pool, int channel, int64_t own, int64_t borrowed, int64_t ceiling_number,
    bint committed
) noexcept nogil:
    """Held units lie in their accounts again, while it is planned what shall be held instead.

    False if the account does not hold them, because row and record are not of one time: then the
    plan can only show that, so it is for this very row. No such row stands beside that record.
    """
    cdef Quota *quota = &pool.quotas[channel]
    cdef int64_t *account = &quota.committed if committed else &quota.reserved
    cdef bint covered = own + borrowed <= account[0]
    cdef int64_t units
    if not covered:
        pool.fixed = True
        own = own if own < account[0] else account[0]
        borrowed = account[0] - own
    units = own + borrowed
    account[0] -= units
    quota.free += own
    pool.shared += borrowed
    pool.held += units
    pool.held_borrowed += borrowed
    if ceiling_number == standing(quota):
        _unspend(quota, units, ceiling_number)
    else:
        pool.held_outdated += units
    return covered


cdef void pay_deficit(Pool *pool, int channel) noexcept nogil:
    """Pays with what was laid open and not taken again: beside a deficit there is nothing else."""
    cdef Quota *quota = &pool.quotas[channel]
    cdef int64_t paid = pool.shared if pool.shared < pool.deficit else pool.deficit
    pool.shared -= paid
    pool.deficit -= paid
    paid = quota.free if quota.free < pool.deficit else pool.deficit
    quota.free -= paid
    pool.deficit -= paid


cdef void ship(Pool *pool, int channel, int64_t quantity, Moves *moves) noexcept nogil:
    """Committed units leave; one that was missing and yet leaves was there after all. (Only a fact
    takes of a pool with a deficit, and then the plan is for this very row already.)"""
    cdef int64_t here = on_hand(pool)
    cdef int64_t found = quantity - here if quantity > here else 0
    pool.quotas[channel].committed -= quantity
    note(moves, AT_COMMITTED + channel, AT_OUTSIDE, quantity)
    pool.deficit -= found
    note(moves, AT_OUTSIDE, AT_DEFICIT, found)
    pool.inflow -= quantity - found
