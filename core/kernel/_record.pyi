"""The record of a new reservation as text; ``lua/parts/records.lua`` says what its words are."""
