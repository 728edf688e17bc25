"""The ids of reservations."""
