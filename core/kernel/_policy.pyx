"""The policy as the planner reads it, and what a worker last saw of SKUs and pools."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from core.kernel._pool cimport CEILING_NONE, CEILING_SHARE, CEILING_UNITS


cdef void _set_rule(Rule *rule, object spec) except *:
    """Floor and ceiling of a channel's spec, or of a SKU's override, in whole millionths."""
    rule.floor_share = round(spec.floor_share * 1_000_000) if spec.floor_share else 0
    rule.floor_units = spec.floor_units or 0
    _set_ceiling(rule, spec)


cdef void _set_ceiling(Rule *rule, object spec) except *:
    if spec.ceiling_share is not None:
        rule.ceiling_kind = CEILING_SHARE
        rule.ceiling_value = round(spec.ceiling_share * 1_000_000)
    elif spec.ceiling_units is not None:
        rule.ceiling_kind = CEILING_UNITS
        rule.ceiling_value = spec.ceiling_units
    else:
        rule.ceiling_kind = CEILING_NONE
        rule.ceiling_value = 0


cdef class Policy:
    """Channels and locations at one version. Immutable."""

    def __init__(self, number, specs, locations):
        """``specs``: name → ChannelSpec; ``locations``: name → (sells, returns)."""
        cdef int c
        if len(specs) > CHANNELS_MAX:
            raise ValueError(f"at most {CHANNELS_MAX} channels")
        self.number = number
        self.channels = tuple(sorted(specs))
        self.specs = dict(specs)
        self.locations = dict(locations)
        self._names = [name.encode() for name in self.channels]
        self._index = {}
        self._parties = {}
        self._locations = [tuple(dict.fromkeys(specs[name].locations)) for name in self.channels]
        for c, name in enumerate(self.channels):
            spec = specs[name]
            self._index[name] = self._index[name.encode()] = c
            _set_rule(&self._rules[c], spec)
            self._rules[c].keeps = 0 if spec.borrow else getattr(spec, "keeps", 0)
            self._rules[c].borrow = spec.borrow
            self._rules[c].split = spec.split
            self._rules[c].closed = getattr(spec, "closed", False)
            if self._rules[c].closed:
                continue
            for location in self._locations[c]:
                self._parties[location] = self._parties.get(location, 0) | (<uint64_t>1 << c)

    def sells(self, location):
        """True if units may be taken at this location."""
        known = self.locations.get(location)
        return known is not None and known[0]


cdef class Row:
    """What this worker last saw of a pool."""

    def __init__(self, sku, location):
        self.sku = sku
        self.location = location
        self.pool = f"{sku}@{location}".encode()
        self.text = b""
        self.round = -1
        self.seen_at = -1e9
        self.planned = -1
        self.stamp = -1

    def saw(self, bytes text not None, int64_t round, double seen_at):
        """Takes in what a pipeline found. Where a later one planned on, that is old news."""
        if self.planned <= round:
            self.text = text
            self.round = round
            self.seen_at = seen_at

    def void(self, bytes text not None, int64_t round, bint guessed):
        """The plan of a pipeline came to nothing: the row is what it was planned on. ``guessed``:
        that was itself planned and not seen, so that no refusal may rest on it."""
        if self.planned <= round:
            self.text = text
            self.planned = -1
            if guessed:
                self.round = -1
                self.seen_at = -1e9


cdef class Sku:
    """A SKU's policy and where it lies, as this worker last saw it. Immutable but for ``rows``."""

    def __init__(self, name, number, text, spec, locations, rows):
        self.name = name
        self.number = number
        self.text = text
        self.spec = spec
        self.limited = spec is not None and spec.customer_limit is not None
        self.locations = tuple(locations)
        self.rows = rows
        self.round = -1
        self.seen_at = -1e9
        self._rules = NULL
        self._rules_for = -1

    def __dealloc__(self):
        free(self._rules)

    cdef Rule *rules(self, Policy policy) except NULL:
        """The channels' rules with this SKU's overrides: one floor named replaces all floors."""
        cdef int c
        if not self.spec.channels:
            return policy._rules
        if self._rules_for == policy.number:
            return self._rules
        if self._rules == NULL:
            self._rules = <Rule *>malloc(CHANNELS_MAX * sizeof(Rule))
            if self._rules == NULL:
                raise MemoryError()
        memcpy(self._rules, policy._rules, sizeof(policy._rules))
        overrides = self.spec.channels
        if any(o.floor_share is not None or o.floor_units is not None for o in overrides.values()):
            for c in range(len(policy.channels)):
                self._rules[c].floor_share = self._rules[c].floor_units = 0
        for name, override in overrides.items():
            index = policy._index.get(name)
            if index is None:
                continue
            c = index
            if override.floor_share is not None:
                self._rules[c].floor_share = round(override.floor_share * 1_000_000)
            if override.floor_units is not None:
                self._rules[c].floor_units = override.floor_units
            if override.ceiling_share is not None or override.ceiling_units is not None:
                _set_ceiling(&self._rules[c], override)
        self._rules_for = policy.number
        return self._rules
