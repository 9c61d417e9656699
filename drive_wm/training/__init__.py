"""Objectives, Lightning modules, exact resume."""
