"""The store commits. Each Lua script is one verb, atomic, under optimistic locking; it knows one
law (no account below zero, units conserved) and no policy.

Read ``keys`` (every key name), the head of ``lua/reserve.lua``, ``lua/parts/records.lua``, then
``scripts`` and ``link`` (how they are sent) and ``wording`` (how rows and records are read).
"""
