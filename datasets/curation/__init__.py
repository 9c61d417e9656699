"""Curation: many logs become clips that are worth training on, each with its split, weight, caption and lineage."""
