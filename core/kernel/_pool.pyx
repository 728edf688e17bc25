"""One pool: its row as text, and the laws that it obeys. See ``_pool.pxd``.

A row reads ``version sku_number policy_number shared,safety,damaged,quarantine,deficit,credit``
and then, for each channel that has or had something here, ``name@free,reserved,committed,credit``
with ``,number,ceiling,left,remainder`` behind it once the channel has had a ceiling; the ceiling
is ``-``, ``u500`` (units) or ``s400000`` (millionths).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcpy, memset

cdef int64_t ACCOUNT_MAX = 9007199254740991


class RowCorrupt(Exception):
    """A row of the store cannot be read; nothing was done with it."""


class LawBroken(Exception):
    """A plan would break conservation or a sign: a defect of the kernel; nothing was sent."""


class ChannelUnknown(Exception):
    """A row names a channel that this worker's policy does not have: the policy is out of date."""


class Shortage(Exception):
    """A decision asks for more units than there are to move; nothing was planned."""

    def __init__(self, available):
        super().__init__(f"only {available} units are there to move")
        self.available = available


class ChannelInUse(Exception):
    """A channel has units reserved or committed in a pool; nothing was planned."""


# --- text → struct ---------------------------------------------------------------------------

cdef inline const char *_number(const char *at, const char *end, int64_t *value) noexcept nogil:
    """Reads a decimal integer of at most 16 digits; NULL if there is none."""
    cdef bint negative = False
    cdef int64_t total = 0
    cdef int digits = 0
    if at < end and at[0] == c"-":
        negative = True
        at += 1
    while at < end and c"0" <= at[0] <= c"9":
        total = total * 10 + (at[0] - c"0")
        digits += 1
        at += 1
    if digits == 0 or digits > 16:
        return NULL
    value[0] = -total if negative else total
    return at


cdef inline const char *_field(
    const char *at, const char *end, char closes, int64_t *value
) noexcept nogil:
    """Reads a number and the character that closes it; at the end of the text none is needed."""
    at = _number(at, end, value)
    if at == NULL:
        return NULL
    if at == end:
        return at
    return at + 1 if at[0] == closes else NULL


cdef const char *_ceiling(const char *at, const char *end, Quota *quota) noexcept nogil:
    """Reads ``number,ceiling,left,remainder``."""
    at = _field(at, end, c",", &quota.ceiling_number)
    if at == NULL or at >= end:
        return NULL
    if at[0] == c"-":
        quota.ceiling_kind = CEILING_NONE
        at += 1
        if at >= end or at[0] != c",":
            return NULL
        at += 1
    else:
        if at[0] == c"u":
            quota.ceiling_kind = CEILING_UNITS
        elif at[0] == c"s":
            quota.ceiling_kind = CEILING_SHARE
        else:
            return NULL
        at = _field(at + 1, end, c",", &quota.ceiling_value)
        if at == NULL:
            return NULL
    at = _field(at, end, c",", &quota.ceiling_left)
    if at == NULL:
        return NULL
    return _number(at, end, &quota.ceiling_remainder)


cdef bint _is_name(const char *at, const char *end) noexcept nogil:
    """True for what may name a channel."""
    if at == end or end - at > 32:
        return False
    while at < end:
        if not (c"a" <= at[0] <= c"z" or c"0" <= at[0] <= c"9"
                or at[0] == c"." or at[0] == c"_" or at[0] == c"-"):
            return False
        at += 1
    return True


cdef int parse_row(const char *text, Py_ssize_t length, dict channel_index, Pool *pool) except -1:
    """Fills `pool` (numbers and accounts) from a row.

    Raises RowCorrupt, also for a row that breaks a law by itself, or ChannelUnknown if it names a
    channel not in `channel_index`.
    """
    cdef const char *at = text
    cdef const char *end = text + length
    cdef const char *name_end
    cdef const char *broken
    cdef Quota *quota
    cdef int64_t *head[8]
    cdef uint64_t named = 0
    cdef int i
    memset(pool.quotas, 0, pool.channels * sizeof(Quota))
    head[0], head[1], head[2] = &pool.version, &pool.sku_number, &pool.policy_number
    head[3], head[4], head[5] = &pool.shared, &pool.safety, &pool.damaged
    head[6], head[7] = &pool.quarantine, &pool.deficit
    for i in range(8):
        at = _field(at, end, c" " if i < 3 else c",", head[i])
        if at == NULL:
            raise RowCorrupt(f"head of row {text[:length]!r}")
    at = _field(at, end, c" ", &pool.shared_credit)
    while at != NULL and at < end:
        name_end = <const char *>memchr(at, c"@", end - at)
        if name_end == NULL or not _is_name(at, name_end):
            at = NULL
            break
        name = at[:name_end - at]
        index = channel_index.get(name)
        if index is None:
            raise ChannelUnknown(name.decode())
        i = index
        if (named >> i) & 1:
            at = NULL
            break
        named |= <uint64_t>1 << i
        quota = &pool.quotas[i]
        at = _field(name_end + 1, end, c",", &quota.free)
        if at != NULL:
            at = _field(at, end, c",", &quota.reserved)
        if at != NULL:
            at = _field(at, end, c",", &quota.committed)
        if at != NULL:
            at = _number(at, end, &quota.credit)
        if at != NULL and at < end and at[0] == c",":
            at = _ceiling(at + 1, end, quota)
        if at != NULL and at < end:
            at = at + 1 if at[0] == c" " else NULL
    if at == NULL:
        raise RowCorrupt(f"accounts of row {text[:length]!r}")
    broken = _broken(pool)
    if broken != NULL:
        raise RowCorrupt(f"{broken.decode()} in row {text[:length]!r}")
    return 0


# --- struct → text ---------------------------------------------------------------------------

cdef enum:
    ROW_BYTES_MAX = 20480           # 9 head numbers, 64 channels of a name and 8 numbers


cdef char *put_number(char *at, int64_t value) noexcept nogil:
    """Writes a decimal integer; returns where it ends."""
    cdef char digits[20]
    cdef int n = 0
    if value < 0:
        at[0] = c"-"
        at += 1
        value = -value
    while True:
        digits[n] = <char>(c"0" + value % 10)
        value //= 10
        n += 1
        if value == 0:
            break
    while n:
        n -= 1
        at[0] = digits[n]
        at += 1
    return at


cdef char *put_text(char *at, bytes text) noexcept:
    memcpy(at, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return at + PyBytes_GET_SIZE(text)


cdef inline char *_put_then(char *at, int64_t value, char then) noexcept nogil:
    at = put_number(at, value)
    at[0] = then
    return at + 1


cdef char *_put_ceiling(char *at, Quota *quota) noexcept nogil:
    at[0] = c","
    at = _put_then(at + 1, quota.ceiling_number, c",")
    if quota.ceiling_kind == CEILING_NONE:
        at[0] = c"-"
        at += 1
    else:
        at[0] = c"u" if quota.ceiling_kind == CEILING_UNITS else c"s"
        at = put_number(at + 1, quota.ceiling_value)
    at[0] = c","
    at = _put_then(at + 1, quota.ceiling_left, c",")
    return put_number(at, quota.ceiling_remainder)


cdef bytes print_row(Pool *pool, list channel_names, int64_t version):
    """The row as text, with this version."""
    cdef char buffer[ROW_BYTES_MAX]
    cdef char *at = buffer
    cdef bytes name
    cdef Quota *quota
    cdef int c
    at = _put_then(at, version, c" ")
    at = _put_then(at, pool.sku_number, c" ")
    at = _put_then(at, pool.policy_number, c" ")
    at = _put_then(at, pool.shared, c",")
    at = _put_then(at, pool.safety, c",")
    at = _put_then(at, pool.damaged, c",")
    at = _put_then(at, pool.quarantine, c",")
    at = _put_then(at, pool.deficit, c",")
    at = put_number(at, pool.shared_credit)
    for c in range(pool.channels):
        quota = &pool.quotas[c]
        if not (quota.free or quota.reserved or quota.committed or quota.credit
                or quota.ceiling_number):
            continue
        name = <bytes>channel_names[c]
        at[0] = c" "
        memcpy(at + 1, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        at += 1 + PyBytes_GET_SIZE(name)
        at[0] = c"@"
        at = _put_then(at + 1, quota.free, c",")
        at = _put_then(at, quota.reserved, c",")
        at = _put_then(at, quota.committed, c",")
        at = put_number(at, quota.credit)
        if quota.ceiling_number:
            at = _put_ceiling(at, quota)
    return buffer[:at - buffer]


cdef void _delta(list parts, bytes account, int64_t now, int64_t then) except *:
    if now != then:
        parts.append(b"%s:%d" % (account, now - then))


cdef bytes print_deltas(Pool *pool, Pool *before, list channel_names):
    """What a rebase does to a fresh row: the inflow, then ``account:delta``, then
    ``account=value`` for what must still be so (`same`), and ``account>value`` for what must be at
    least so much afterwards.

    ``@1``…``@6`` are the head's accounts in the row's order, ``web@1`` the first of web's. Empty
    where the plan is right for this very row alone: such a plan is never rebased.
    """
    cdef int c
    cdef Quota *quota
    cdef Quota *was
    if pool.met or pool.fixed:
        return b""
    parts = [b"%d" % pool.inflow]
    _delta(parts, b"@1", pool.shared, before.shared)
    _delta(parts, b"@2", pool.safety, before.safety)
    _delta(parts, b"@3", pool.damaged, before.damaged)
    _delta(parts, b"@4", pool.quarantine, before.quarantine)
    _delta(parts, b"@5", pool.deficit, before.deficit)
    _delta(parts, b"@6", pool.shared_credit, before.shared_credit)
    if pool.receipt or pool.replanned:
        parts.append(b"@5=%d" % before.deficit)
    if pool.receipt:
        parts.append(b"@2=%d @6=%d" % (before.safety, before.shared_credit))
    for c in range(pool.channels):
        quota, was = &pool.quotas[c], &before.quotas[c]
        name = <bytes>channel_names[c]
        _delta(parts, name + b"@1", quota.free, was.free)
        if pool.rules[c].keeps <= quota.free < was.free and pool.rules[c].keeps:
            parts.append(b"%s@1>%d" % (name, pool.rules[c].keeps))
        _delta(parts, name + b"@2", quota.reserved, was.reserved)
        _delta(parts, name + b"@3", quota.committed, was.committed)
        _delta(parts, name + b"@4", quota.credit, was.credit)
        _delta(parts, name + b"@7", quota.ceiling_left, was.ceiling_left)
        _delta(parts, name + b"@8", quota.ceiling_remainder, was.ceiling_remainder)
        if pool.receipt:
            parts.append(b"%s@4=%d" % (name, was.credit))
            if (pool.parties >> c) & 1 and pool.rules[c].floor_units:
                parts.append(b"%s@1=%d" % (name, was.free))
            if quota.ceiling_kind == CEILING_SHARE:
                parts.append(b"%s@8=%d" % (name, was.ceiling_remainder))
    return b" ".join(parts)


# --- laws ------------------------------------------------------------------------------------

cdef int64_t units_of(Pool *pool) noexcept nogil:
    cdef int64_t total = pool.shared + pool.safety + pool.damaged + pool.quarantine
    cdef int c
    for c in range(pool.channels):
        total += pool.quotas[c].free + pool.quotas[c].reserved + pool.quotas[c].committed
    return total


cdef const char *_broken(Pool *pool) noexcept nogil:
    """What a pool by itself breaks of laws 1 and 2; NULL if nothing."""
    cdef int64_t credit = pool.shared_credit
    cdef int64_t units = units_of(pool)
    cdef bint negative = (
        pool.shared < 0 or pool.safety < 0 or pool.damaged < 0 or pool.quarantine < 0
        or pool.deficit < 0)
    cdef bint sellable = pool.shared > 0 or pool.safety > 0
    cdef bint large = units > ACCOUNT_MAX
    cdef bint ceilings = True
    cdef Quota *quota
    cdef int c
    for c in range(pool.channels):
        quota = &pool.quotas[c]
        negative = negative or (
            quota.free < 0 or quota.reserved < 0 or quota.committed < 0 or quota.ceiling_left < 0)
        large = large or quota.ceiling_left > ACCOUNT_MAX
        sellable = sellable or quota.free > 0
        ceilings = ceilings and (
            quota.ceiling_number >= 0 and quota.ceiling_value >= 0
            and 0 <= quota.ceiling_remainder < ONE
            and (quota.ceiling_kind != CEILING_SHARE or quota.ceiling_value <= ONE))
        credit += quota.credit
    if negative:
        return "a negative account"
    if large:
        return "an account above 2^53"
    if units < pool.deficit:
        return "more missing than on the books"
    if pool.deficit > 0 and sellable:
        return "a deficit beside sellable units"
    if not ceilings:
        return "a ceiling that cannot be"
    if credit != 0:
        return "credits that do not sum to zero"
    return NULL


cdef int check_laws(Pool *pool, Pool *before) except -1:
    """Asserts laws 1 and 2 on a row about to be printed; always on.

    Raises LawBroken: units appeared or vanished, an account is negative or too large, a deficit
    stands beside sellable units, credits do not sum to zero.
    """
    cdef const char *broken = _broken(pool)
    if broken != NULL:
        raise LawBroken(f"the plan leaves {broken.decode()}")
    if units_of(pool) - pool.deficit != units_of(before) - before.deficit + pool.inflow:
        raise LawBroken("units are not conserved")
    return 0
