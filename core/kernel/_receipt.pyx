"""How a pool meets its policy and what arrives is allotted. See ``_receipt.pxd``; pure C."""

from libc.stdint cimport int32_t, int64_t

from core.kernel._moves cimport (
    AT_DEFICIT, AT_FREE, AT_OUTSIDE, AT_SAFETY, AT_SHARED, note)
from core.kernel._pool cimport (
    ACCOUNT_MAX, CEILING_NONE, CEILING_SHARE, CEILING_UNITS, ONE, Quota, Rule, units_of)


# --- policy ----------------------------------------------------------------------------------

cdef inline void _grow_ceiling(Quota *quota, int64_t units) noexcept nogil:
    """Adds the ceiling's share of `units` to the allowance; fractions are kept in millionths.

    units * share can pass 2^63 for units near 2^53, so whole millions are multiplied apart.
    """
    cdef int64_t rest = (units % ONE) * quota.ceiling_value + quota.ceiling_remainder
    quota.ceiling_left += (units // ONE) * quota.ceiling_value + rest // ONE
    quota.ceiling_remainder = rest % ONE


cdef void meet(Pool *pool, int64_t sku_number, int64_t policy_number) noexcept nogil:
    """Brings the pool under the policy of its rules: safety, changed ceilings, credits.

    A closed channel's ceiling stays as it is: none starts, for the row is to forget the channel,
    and none ends, for the channel may be opened again.
    """
    cdef int64_t moved, base
    cdef Quota *quota
    cdef Rule *rule
    cdef int c
    if pool.sku_number != sku_number:      # safety is the SKU's; a channel's change moves no stock
        moved = pool.safety_target - pool.safety
        if moved > pool.shared:
            moved = pool.shared
        pool.shared -= moved
        pool.safety += moved
    base = pool.shared + pool.safety
    for c in range(pool.channels):
        base += pool.quotas[c].free
    for c in range(pool.channels):
        quota, rule = &pool.quotas[c], &pool.rules[c]
        if not (pool.parties >> c) & 1 or rule.floor_share == 0:
            pool.shared_credit += quota.credit
            quota.credit = 0
        if rule.closed or (quota.ceiling_kind == rule.ceiling_kind and (
                rule.ceiling_kind == CEILING_NONE or quota.ceiling_value == rule.ceiling_value)):
            continue
        quota.ceiling_kind = rule.ceiling_kind
        quota.ceiling_value = rule.ceiling_value
        quota.ceiling_left = quota.ceiling_remainder = 0
        if rule.ceiling_kind == CEILING_NONE:
            quota.ceiling_value = 0
            continue
        # A channel that was deleted and made again does not begin at 1 once more: what was taken
        # under its ceilings of old may not come back to the new ones.
        quota.ceiling_number = (quota.ceiling_number or pool.version) + 1
        if rule.ceiling_kind == CEILING_UNITS:
            quota.ceiling_left = rule.ceiling_value
        else:
            _grow_ceiling(quota, base)
    pool.sku_number = sku_number
    pool.policy_number = policy_number
    pool.met = True


# --- dealing out -----------------------------------------------------------------------------

cdef void apportion(
    int64_t units, const int64_t *weights, int count, int64_t *given
) noexcept nogil:
    """Deals `units`, at most the sum of the weights, by largest remainder; ties by name."""
    cdef int64_t rest[64]
    cdef int64_t left = units, best
    cdef int128 total = 0, exact
    cdef int c, winner
    for c in range(count):
        total += weights[c]
        given[c] = 0
    if total == 0:
        return
    for c in range(count):
        exact = units
        exact = exact * weights[c]
        given[c] = <int64_t>(exact // total)
        rest[c] = <int64_t>(exact % total)
        left -= given[c]
    while left > 0:
        winner, best = 0, 0
        for c in range(count):
            if rest[c] > best:
                winner, best = c, rest[c]
        given[winner] += 1
        rest[winner] = 0
        left -= 1


cdef int64_t _fill_floors(Pool *pool, int64_t units) noexcept nogil:
    """Fills unit floors; too few go by largest remainder of what lacks. Returns what is left."""
    cdef int64_t lack[64]
    cdef int64_t given[64]
    cdef int64_t total = 0
    cdef int c
    for c in range(pool.channels):
        lack[c] = 0
        if (pool.parties >> c) & 1 and pool.rules[c].floor_units > pool.quotas[c].free:
            lack[c] = pool.rules[c].floor_units - pool.quotas[c].free
        total += lack[c]
    if total == 0:
        return units
    if units < total:
        total = units
    apportion(total, lack, pool.channels, given)
    for c in range(pool.channels):
        pool.quotas[c].free += given[c]
    return units - total


cdef void _share_out(Pool *pool, int64_t units) noexcept nogil:
    """Deals `units` by shares with credit: floor(n * share), then one by one to whom most is owed.

    Largest remainder with the remainder carried over from receipt to receipt, so that 70/30 holds
    over a hundred receipts of one unit. Shares that would pass 1 (a SKU's overrides at a location
    that a channel got later) are cut in the order of names. units * share can pass 2^63, so whole
    millions are multiplied apart.
    """
    cdef int64_t share[64]
    cdef int64_t score[64]
    cdef int64_t shared_share = ONE, left = units, shared_score, best, exact, whole
    cdef int64_t millions = units // ONE, odd = units % ONE
    cdef int c, winner
    for c in range(pool.channels):
        share[c] = pool.rules[c].floor_share if (pool.parties >> c) & 1 else 0
        if share[c] > shared_share:
            share[c] = shared_share
        if share[c] == 0:
            continue
        shared_share -= share[c]
        exact = odd * share[c]
        whole = millions * share[c] + exact // ONE
        pool.quotas[c].free += whole
        left -= whole
        score[c] = pool.quotas[c].credit + exact % ONE
    exact = odd * shared_share
    whole = millions * shared_share + exact // ONE
    pool.shared += whole
    left -= whole
    shared_score = pool.shared_credit + exact % ONE
    while left > 0:
        winner, best = -1, shared_score
        for c in range(pool.channels - 1, -1, -1):   # downwards: of equals the first by name wins
            if share[c] > 0 and score[c] >= best:
                winner, best = c, score[c]
        if winner < 0:
            pool.shared += 1
            shared_score -= ONE
        else:
            pool.quotas[winner].free += 1
            score[winner] -= ONE
        left -= 1
    for c in range(pool.channels):
        if share[c] > 0:
            pool.quotas[c].credit = score[c]
    pool.shared_credit = shared_score


cdef void allot(Pool *pool, int64_t quantity, int32_t source, Moves *moves) noexcept nogil:
    """Units that may be sold: deficit, safety, unit floors, shares."""
    cdef int64_t frees[64]
    cdef int64_t left = quantity, shared = pool.shared, part
    cdef int c
    part = left if left < pool.deficit else pool.deficit
    pool.deficit -= part
    left -= part
    note(moves, source, AT_DEFICIT, part)
    if left and pool.safety < pool.safety_target:
        part = pool.safety_target - pool.safety
        if part > left:
            part = left
        pool.safety += part
        left -= part
        note(moves, source, AT_SAFETY, part)
    for c in range(pool.channels):
        frees[c] = pool.quotas[c].free
    if left:
        left = _fill_floors(pool, left)
    if left:
        _share_out(pool, left)
    for c in range(pool.channels):
        note(moves, source, AT_FREE + c, pool.quotas[c].free - frees[c])
    if source != AT_SHARED:
        note(moves, source, AT_SHARED, pool.shared - shared)
    pool.touched = True


# --- what arrives ----------------------------------------------------------------------------

cdef int receive(Pool *pool, int64_t quantity, bint grows, Moves *moves) noexcept nogil:
    """A receipt, under which ceilings by share grow or not. -1 if an account would overflow."""
    cdef int64_t paid = quantity if quantity < pool.deficit else pool.deficit
    cdef Quota quota
    cdef int c
    if units_of(pool) - paid > ACCOUNT_MAX - quantity:
        return -1
    if grows:
        for c in range(pool.channels):
            quota = pool.quotas[c]      # a copy, to see what it would become
            if quota.ceiling_kind == CEILING_SHARE:
                _grow_ceiling(&quota, quantity)
                if quota.ceiling_left > ACCOUNT_MAX:
                    return -1
        for c in range(pool.channels):
            if pool.quotas[c].ceiling_kind == CEILING_SHARE:
                _grow_ceiling(&pool.quotas[c], quantity)
    allot(pool, quantity, AT_OUTSIDE, moves)
    pool.inflow += quantity
    pool.receipt = True
    return 0


cdef void reapportion(Pool *pool, Moves *moves) noexcept nogil:
    """Allots `shared` as if it had just arrived; ceilings do not grow."""
    cdef int64_t units = pool.shared
    if units:
        pool.shared = 0
        allot(pool, units, AT_SHARED, moves)
        pool.fixed = True
