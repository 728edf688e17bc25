"""The pools of a round, and the verbs of stock. See ``_stock.pxd`` and ``_rules.pxd``."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from core.kernel._moves cimport (
    AT_COMMITTED, AT_DAMAGED, AT_DEFICIT, AT_FREE, AT_OUTSIDE, AT_QUARANTINE, AT_RESERVED,
    AT_SAFETY, AT_SHARED)
from core.kernel._pool cimport ACCOUNT_MAX, CEILING_NONE, parse_row, print_row
from core.kernel._receipt cimport meet, reapportion, receive
from core.kernel._rules cimport (
    account_at, available, drop_channel, give_back, lose, on_hand, put_away, reallocate, transfer,
    unsold)

from core.kernel._pool import ChannelInUse, ChannelUnknown, Shortage

cdef int64_t _stamps = 0

_ACCOUNTS = {
    "outside": AT_OUTSIDE, "shared": AT_SHARED, "safety": AT_SAFETY, "damaged": AT_DAMAGED,
    "quarantine": AT_QUARANTINE, "deficit": AT_DEFICIT,
}
_NAMES = tuple(_ACCOUNTS)
_UNSELLABLE = ("damaged", "quarantine")


def _too_much(Row row):
    return OverflowError(f"{row.pool.decode()} would hold more than 2^53 units")


cdef class Stock:
    """The pools of a round, and what happens to stock in them.

    Every verb plans on what the ones before leave. It returns its moves, (from, to, units) in the
    order done, or None if the round has no room for another pool. Accounts are called ``outside``,
    ``shared``, ``safety``, ``damaged``, ``quarantine``, ``deficit``, ``free:web``. Where something
    is raised nothing was planned: RowCorrupt, ChannelUnknown (naming the SKU), OverflowError where
    an account or allowance would pass 2^53 - 1, ValueError for what is no account.
    """

    def __cinit__(self):
        self._now = <Pool *>calloc(POOLS_MAX, sizeof(Pool))
        self._before = <Pool *>calloc(POOLS_MAX, sizeof(Pool))
        if self._now == NULL or self._before == NULL:
            raise MemoryError()
        self._done.move = self._move

    def __dealloc__(self):
        free(self._now)
        free(self._before)
        free(self._now_quotas)
        free(self._before_quotas)

    def begin(self, Policy policy not None, skus):
        """Starts a round on this policy; ``skus`` (name → Sku) is looked up, never changed."""
        global _stamps
        cdef int stride = max(1, len(policy.channels))
        _stamps += 1
        self._stamp = _stamps
        self.policy = policy
        self._skus = skus
        self.rows = []
        self._pools = 0
        if stride > self._stride:
            free(self._now_quotas)
            free(self._before_quotas)
            self._now_quotas = <Quota *>malloc(POOLS_MAX * stride * sizeof(Quota))
            self._before_quotas = <Quota *>malloc(POOLS_MAX * stride * sizeof(Quota))
            if self._now_quotas == NULL or self._before_quotas == NULL:
                raise MemoryError()
            self._stride = stride

    # --- the pools of the round --------------------------------------------------------------

    cdef int _slot(self, Row row, Sku sku) except -2:
        """The slot of a row in this round; parsed and brought under the policy at first touch.

        -1 if the round has no room. Raises ChannelUnknown, naming the SKU, for a row that met a
        newer policy.
        """
        cdef Pool *pool
        cdef int slot
        if row.stamp == self._stamp:
            return row.slot
        if self._pools == POOLS_MAX:
            return -1
        slot = self._pools
        pool = &self._now[slot]
        memset(pool, 0, sizeof(Pool))
        pool.channels = len(self.policy.channels)
        pool.quotas = self._now_quotas + slot * self._stride
        pool.rules = sku.rules(self.policy)
        pool.safety_target = sku.spec.safety_by_location.get(row.location, sku.spec.safety_stock)
        pool.parties = self.policy._parties.get(row.location, 0)
        pool.sells = self.policy.sells(row.location)
        text = row.text
        if text:
            try:
                parse_row(
                    PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), self.policy._index, pool)
            except ChannelUnknown:
                raise ChannelUnknown(row.sku) from None
            if pool.sku_number > sku.number or pool.policy_number > self.policy.number:
                raise ChannelUnknown(row.sku)
        else:
            memset(pool.quotas, 0, pool.channels * sizeof(Quota))
        self._remember(slot)
        if (pool.sku_number != sku.number or pool.policy_number != self.policy.number):
            meet(pool, sku.number, self.policy.number)
        row.stamp = self._stamp
        row.slot = slot
        row.used = True
        self.rows.append(row)
        self._pools += 1
        return slot

    cdef void _remember(self, int slot) noexcept:
        """Notes the pool as it is: what later changes is a delta against this."""
        cdef Pool *now = &self._now[slot]
        cdef Quota *quotas = self._before_quotas + slot * self._stride
        now.inflow = 0
        now.touched = now.met = now.fixed = now.receipt = now.replanned = False
        memcpy(&self._before[slot], now, sizeof(Pool))
        memcpy(quotas, now.quotas, now.channels * sizeof(Quota))
        self._before[slot].quotas = quotas

    cdef Pool *_pool(self, Row row, Sku sku) except? NULL:
        """The pool that a verb is about; NULL if the round has no room. What it does is noted."""
        cdef int slot
        if row is None or sku is None:
            raise TypeError("a row and its SKU are needed")
        slot = self._slot(row, sku)
        self._done.count = 0
        self._done.slot = slot
        return &self._now[slot] if slot >= 0 else NULL

    cdef int _channel(self, channel) except -1:
        index = self.policy._index.get(channel)
        if index is None:
            raise ValueError(f"there is no channel {channel}")
        return index

    cdef int32_t _account(self, name) except -1:
        """An account that units may be moved from and to by hand."""
        if name in ("shared", "safety", "damaged", "quarantine"):
            return _ACCOUNTS[name]
        return AT_FREE + self._channel(name)

    cdef str _name(self, int32_t account):
        if account < AT_FREE:
            return _NAMES[account]
        if account < AT_RESERVED:
            return f"free:{self.policy.channels[account - AT_FREE]}"
        if account < AT_COMMITTED:
            return f"reserved:{self.policy.channels[account - AT_RESERVED]}"
        return f"committed:{self.policy.channels[account - AT_COMMITTED]}"

    cdef list _moves(self):
        """What the verb did."""
        cdef int i
        return [
            (self._name(self._move[i].source), self._name(self._move[i].target),
             self._move[i].units)
            for i in range(self._done.count)
        ]

    # --- what arrives and what is missing ----------------------------------------------------

    def receive(self, Row row, Sku sku, int64_t quantity):
        """A receipt: deficit, safety, unit floors, shares with credit; ceilings by share grow."""
        cdef Pool *pool = self._pool(row, sku)
        if pool == NULL:
            return None
        if receive(pool, quantity, True, &self._done) < 0:
            raise _too_much(row)
        return self._moves()

    def restock(self, Row row, Sku sku, int64_t quantity):
        """What came back is sold again: a receipt under which no ceiling grows."""
        cdef Pool *pool = self._pool(row, sku)
        if pool == NULL:
            return None
        if receive(pool, quantity, False, &self._done) < 0:
            raise _too_much(row)
        return self._moves()

    def put_away(self, Row row, Sku sku, int64_t quantity, account):
        """What came back is not sold: outside → ``damaged`` or ``quarantine``."""
        cdef Pool *pool
        if account not in _UNSELLABLE:
            raise ValueError(f"nothing is put away as {account}")
        pool = self._pool(row, sku)
        if pool == NULL:
            return None
        if put_away(pool, quantity, _ACCOUNTS[account], &self._done) < 0:
            raise _too_much(row)
        return self._moves()

    def adjust(self, Row row, Sku sku, int64_t delta, account):
        """Units were found (a receipt, or onto the account) or lost (the account, then a fact).

        Raises Shortage if more are lost than lie there.
        """
        cdef Pool *pool
        cdef int32_t first = AT_OUTSIDE
        if account != "sellable":
            if account not in _UNSELLABLE:
                raise ValueError(f"nothing is adjusted as {account}")
            if delta >= 0:
                return self.put_away(row, sku, delta, account)
            first = _ACCOUNTS[account]
        elif delta >= 0:
            return self.receive(row, sku, delta)
        pool = self._pool(row, sku)
        if pool == NULL:
            return None
        if delta < -on_hand(pool):
            raise Shortage(on_hand(pool))
        lose(pool, -delta, first, False, &self._done)
        return self._moves()

    def count(self, Row row, Sku sku, int64_t counted):
        """All that lies there was counted: more is a receipt, less a fact. The row is printed even
        if the count was right, so that it is a count of the row that stands."""
        cdef Pool *pool = self._pool(row, sku)
        cdef int64_t here
        if pool == NULL:
            return None
        here = on_hand(pool)
        if counted < 0:
            raise ValueError("fewer than none cannot be counted")
        if counted < here:
            lose(pool, here - counted, AT_OUTSIDE, True, &self._done)
        elif counted > here and receive(pool, counted - here, True, &self._done) < 0:
            raise _too_much(row)
        pool.fixed = pool.touched = True
        return self._moves()

    # --- what is moved by hand ---------------------------------------------------------------

    def transfer(self, Row row, Row target, Sku sku, int64_t quantity):
        """Unsold units move to another location: (pool, from, to, units) each.

        Allowances by share travel along. Raises Shortage if fewer lie unsold, ValueError for a
        transfer onto itself.
        """
        cdef Pool *source
        cdef Pool *there
        cdef Move *move
        cdef int32_t slot
        cdef int i
        if row is target:
            raise ValueError("a transfer onto itself")
        there = self._pool(target, sku)
        slot = self._done.slot
        if there == NULL:
            return None
        source = self._pool(row, sku)
        if source == NULL:
            return None
        if quantity > unsold(source):
            raise Shortage(unsold(source))
        if transfer(source, there, quantity, &self._done, slot) < 0:
            raise _too_much(target)
        moves = []
        for i in range(self._done.count):
            move = &self._move[i]
            pool = (<Row>self.rows[move.slot]).pool
            moves.append((pool, self._name(move.source), self._name(move.target), move.units))
        return moves

    def reallocate(self, Row row, Sku sku, source, target, quantity):
        """Moves unsold units by hand, None = all; what becomes sellable pays the deficit first.

        ``source``, ``target``: shared, safety, damaged, quarantine or a channel. All of nothing
        changes nothing. Raises Shortage.
        """
        cdef int32_t out_of = self._account(source), into = self._account(target)
        cdef Pool *pool
        cdef int64_t here, units
        if out_of == into:
            raise ValueError("a reallocation onto itself")
        if into >= AT_FREE and self.policy._rules[into - AT_FREE].closed:
            raise ValueError(f"the channel {target} is closed")
        pool = self._pool(row, sku)
        if pool == NULL:
            return None
        here = account_at(pool, out_of)[0]
        units = here if quantity is None else quantity
        if units > here:
            raise Shortage(here)
        if units:
            reallocate(pool, out_of, into, units, &self._done)
        return self._moves()

    def reallocate_by_policy(self, Row row, Sku sku):
        """Apportions ``shared`` as if it had just arrived; no ceiling grows."""
        cdef Pool *pool = self._pool(row, sku)
        if pool == NULL:
            return None
        reapportion(pool, &self._done)
        return self._moves()

    # --- what reservations give back ---------------------------------------------------------

    def give_back(
        self, Row row, Sku sku, channel, own, borrowed, ceiling_number, committed
    ):
        """Plans the return of a reservation's units to a pool. The deficit that it paid."""
        cdef int index = self._channel(channel)
        cdef Pool *pool = self._pool(row, sku)
        cdef int64_t was
        if pool == NULL:
            return None
        was = pool.deficit
        give_back(pool, index, own, borrowed, ceiling_number, committed)
        return was - pool.deficit

    def give_allowance(self, Row row, Sku sku, channel, int64_t units, int64_t ceiling_number):
        """Gives spent allowance back; False if the ceiling that it was spent of is gone."""
        cdef int index = self._channel(channel)
        cdef Pool *pool = self._pool(row, sku)
        cdef Quota *quota
        if pool == NULL:
            return None
        quota = &pool.quotas[index]
        if quota.ceiling_kind == CEILING_NONE or quota.ceiling_number != ceiling_number:
            return False
        if units > ACCOUNT_MAX - quota.ceiling_left:
            raise OverflowError(f"an allowance of {row.pool.decode()} would pass 2^53")
        quota.ceiling_left += units
        pool.touched = True
        return True

    # --- what becomes of rows ----------------------------------------------------------------

    def open_pool(self, Row row, Sku sku):
        """Prints a row where none is yet, with nothing in it: facts need a pool."""
        cdef Pool *pool = self._pool(row, sku)
        if pool == NULL:
            return None
        if not row.text:
            pool.touched = True
        return []

    def drop_channel(self, Row row, Sku sku, channel):
        """A channel goes: free → shared, its credit too, and the row names it no more.

        Raises ChannelInUse while it has units reserved or committed here.
        """
        cdef int index = self._channel(channel)
        cdef Pool *pool = self._pool(row, sku)
        cdef Quota *quota
        if pool == NULL:
            return None
        quota = &pool.quotas[index]
        if quota.reserved or quota.committed:
            raise ChannelInUse(f"{channel} has open units in {row.pool.decode()}")
        if (quota.free or quota.credit or quota.ceiling_number
                or b" %s@" % channel.encode() in row.text):
            drop_channel(pool, index, &self._done)
        return self._moves()

    def meet(self, Row row, Sku sku):
        """Brings a row under its SKU's policy; `pack` then prints it. False if no room."""
        cdef Pool *pool = self._pool(row, sku)
        if pool == NULL:
            return False
        pool.touched = pool.met
        return True

    # --- reading -----------------------------------------------------------------------------

    def as_met(self, Row row, Sku sku):
        """The row as its policy makes it, for reading; nothing is planned. None if no room."""
        cdef Pool *pool = self._pool(row, sku)
        if pool == NULL:
            return None
        return print_row(pool, self.policy._names, pool.version)

    def on_hand(self, Row row, Sku sku):
        """All that lies there, damaged and quarantine included; nothing is planned. None if no
        room."""
        cdef Pool *pool = self._pool(row, sku)
        if pool == NULL:
            return None
        return on_hand(pool)

    def available(self, Row row, Sku sku, channel):
        """What the channel can take of this pool now: 0 where nothing is sold and of a channel
        that is closed. Nothing is planned. None if no room."""
        cdef int index = self._channel(channel)
        cdef Pool *pool = self._pool(row, sku)
        if pool == NULL:
            return None
        return 0 if self.policy._rules[index].closed else available(pool, index)
